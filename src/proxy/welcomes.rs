//! What a pool's servers report to sessions, by settings, as far as one core has heard.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::protocol::backend::ParameterStatus;
use crate::protocol::parameters::Parameters;
use crate::sql::settings::Settings;

/// Sets of startup parameters remembered per pool and core; the oldest goes first.
const WELCOMES_MAX: usize = 64;

/// What is reported for some settings. One entry is made as a whole and never changed, so that its parts agree.
#[derive(Default)]
pub(super) struct Welcomes(VecDeque<Welcome>);

struct Welcome {
    settings: Arc<Settings>,
    reported: Rc<Parameters>,
    /// The same, as clients are told: some hundred bytes.
    messages: Rc<[u8]>,
}

impl Welcomes {
    fn of(&self, settings: &Settings) -> Option<&Welcome> {
        self.0.iter().find(|known| *known.settings == *settings)
    }

    pub(super) fn reported(&self, settings: &Settings) -> Option<Rc<Parameters>> {
        self.of(settings).map(|known| Rc::clone(&known.reported))
    }

    /// [`messages`] of that.
    pub(super) fn messages(&self, settings: &Settings) -> Option<Rc<[u8]>> {
        self.of(settings).map(|known| Rc::clone(&known.messages))
    }

    /// Remembers what is reported for these settings, and gives the messages.
    pub(super) fn remember(
        &mut self,
        settings: &Arc<Settings>,
        reported: &Rc<Parameters>,
    ) -> Rc<[u8]> {
        let messages = messages(reported);
        self.0.retain(|known| *known.settings != **settings);
        if self.0.len() >= WELCOMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Welcome {
            settings: Arc::clone(settings),
            reported: Rc::clone(reported),
            messages: Rc::clone(&messages),
        });
        messages
    }

    /// A fresh server reports this where nothing is set. True if that is news: then what it would report for other
    /// settings is not known any more.
    pub(super) fn learn(&mut self, reported: &Rc<Parameters>) -> bool {
        let known = self.of(&Settings::default());
        if known.is_some_and(|known| *known.reported == **reported) {
            return false;
        }
        self.clear();
        self.remember(&Arc::default(), reported);
        true
    }

    /// Servers have been told something else.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A ParameterStatus for each.
pub(super) fn messages(reported: &Parameters) -> Rc<[u8]> {
    let mut messages = Vec::new();
    for (name, value) in reported.iter() {
        ParameterStatus { name, value }.encode(&mut messages);
    }
    messages.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::session_settings::SessionSettings;
    use crate::sql::settings::SettingsStore;

    fn settings(application: &str) -> Arc<Settings> {
        let startup = [(&b"application_name"[..], application.as_bytes())];
        let session = SessionSettings::new(startup, &mut SettingsStore::default());
        Arc::clone(session.committed())
    }

    fn reported(pairs: &[(&str, &str)]) -> Rc<Parameters> {
        Rc::new(pairs.iter().copied().collect())
    }

    #[test]
    fn clients_are_told_what_was_reported_last() {
        let mut welcomes = Welcomes::default();
        assert!(welcomes.messages(&Settings::default()).is_none());
        let before = reported(&[("DateStyle", "ISO"), ("TimeZone", "UTC")]);
        assert!(welcomes.learn(&before));
        let told = welcomes.messages(&Settings::default()).unwrap();
        assert_eq!(
            *told,
            *b"S\0\0\0\x12DateStyle\0ISO\0S\0\0\0\x11TimeZone\0UTC\0"
        );
        assert!(!welcomes.learn(&reported(&[("TimeZone", "UTC"), ("DateStyle", "ISO")])));
        assert!(Rc::ptr_eq(
            &told,
            &welcomes.messages(&Settings::default()).unwrap()
        ));
        welcomes.remember(&settings("app"), &before);
        assert!(welcomes.learn(&reported(&[("TimeZone", "GMT")])));
        let told = welcomes.messages(&Settings::default()).unwrap();
        assert_eq!(*told, *b"S\0\0\0\x11TimeZone\0GMT\0");
        assert!(welcomes.messages(&settings("app")).is_none());
    }

    #[test]
    fn each_settings_have_their_own_and_the_oldest_go() {
        let mut welcomes = Welcomes::default();
        let name = |n: usize| format!("app {n}");
        for n in 0..=WELCOMES_MAX {
            let reported = reported(&[("application_name", &name(n))]);
            let told = welcomes.remember(&settings(&name(n)), &reported);
            assert_eq!(told, messages(&reported));
        }
        assert_eq!(welcomes.0.len(), WELCOMES_MAX);
        assert!(welcomes.reported(&settings(&name(0))).is_none());
        for n in 1..=WELCOMES_MAX {
            let known = welcomes.reported(&settings(&name(n))).unwrap();
            assert_eq!(known.get("application_name"), Some(name(n).as_bytes()));
            assert_eq!(
                welcomes.messages(&settings(&name(n))),
                Some(messages(&known))
            );
        }
        welcomes.clear();
        assert!(welcomes.messages(&settings(&name(1))).is_none());
    }
}
