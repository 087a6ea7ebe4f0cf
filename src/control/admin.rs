//! Commands of admin sessions, on the control thread.

use std::rc::Rc;

use jiff::tz::TimeZone;
use jiff::Timestamp;

use crate::admin::show::{Clock, Picture};
use crate::admin::{Answer, Command, Show};
use crate::config::amend::{Amended, Refused};
use crate::config::Resolved;
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::proxy::{Reply, Setup};
use crate::snapshot::CoreSnapshot;

use super::events::{Control, Load};
use super::gather::Incomplete;
use super::now;
use super::recent::Recent;

impl Control {
    /// Carries a command out, now or when the cores have answered.
    pub(super) fn command(&mut self, command: Command, load: Load<'_>, reply: Reply) {
        match command {
            Command::Show(show) => self.show(show, reply),
            Command::Act(act) => self.act(act, load, reply),
            Command::Set { name, value } => {
                let answer = self.set(&name, &value);
                tell(reply, answer);
            }
            Command::Driver(driver) => {
                debug_assert!(false, "sessions do that themselves: {driver:?}");
            }
        }
    }

    fn show(&mut self, show: Show, reply: Reply) {
        let Some(scope) = show.scope() else {
            let recent = self.recent.borrow();
            let answer = render(&show, self.current.setup(), &self.instance_id, &recent, &[]);
            return tell(reply, answer);
        };
        let (setup, instance_id) = (self.current.setup().clone(), Rc::clone(&self.instance_id));
        let recent = Rc::clone(&self.recent);
        self.gather(scope, move |gathered| {
            let answer = gathered
                .map_err(|why| incomplete(&why))
                .and_then(|cores| render(&show, &setup, &instance_id, &recent.borrow(), &cores));
            tell(reply, answer);
        });
    }

    /// Changes a setting in memory, on all cores before it is answered.
    fn set(&mut self, name: &str, value: &str) -> Result<Answer, Error> {
        let error = |code, text| Error::error(Fault::Client, code, text);
        let amended = self.current.setup().amended(name, value);
        let Amended { config, in_effect } = amended.map_err(|refused| match refused {
            Refused::Unknown => {
                let text = format!("unknown setting \"{name}\"");
                error(SqlState::UNDEFINED_OBJECT, text)
            }
            Refused::Invalid(why) => {
                let text = format!("invalid value for \"{name}\"");
                error(SqlState::INVALID_PARAMETER_VALUE, text).detail(why)
            }
        })?;
        let changed = Resolved {
            config,
            warnings: Vec::new(),
        };
        self.replace(Ok(changed))?;
        let notice = format!("\"{name}\" is not in effect yet");
        Ok(Answer {
            notice: Some(notice).filter(|_| !in_effect),
            ..Answer::done("SET".to_owned())
        })
    }
}

fn render(
    show: &Show,
    setup: &Setup,
    instance_id: &str,
    recent: &Recent,
    cores: &[CoreSnapshot],
) -> Result<Answer, Error> {
    show.answer(&Picture {
        config: setup,
        orders: &setup.orders,
        cores,
        pace: &recent.pace,
        windows: &recent.windows,
        clock: &clock(),
        version: env!("CARGO_PKG_VERSION"),
        instance_id,
    })
}

fn clock() -> Clock {
    Clock {
        now: now(),
        wall: Timestamp::now(),
        zone: TimeZone::system(),
    }
}

fn incomplete(why: &Incomplete) -> Error {
    let text = "not all cores have answered";
    Error::error(Fault::Proxy, SqlState::SYSTEM_ERROR, text).detail(why.to_string())
}

/// Answers the session, if it still waits.
pub(super) fn tell(reply: Reply, answer: Result<Answer, Error>) {
    // Otherwise it has ended, and nobody is left to hear it.
    let _ = reply.send(answer);
}
