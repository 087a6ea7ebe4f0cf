//! The table of settings of a section: one line each, from which all else follows.

use super::value::{Flaw, Input, Value};

/// When a change of a setting applies after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// At once.
    Live,
    /// For connections opened afterwards.
    Next,
    /// When the program starts again.
    Restart,
}

/// Does the feature behind a setting exist yet? `Later` settings are read, checked and listed by
/// [`Config::not_in_effect`](super::Config::not_in_effect).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Now,
    Later,
}

/// What a setting is when no file mentions it. The texts are words as in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Initial {
    /// This value.
    Default(&'static str),
    /// Nothing; the text is an example for the reference.
    Unset(&'static str),
    /// An error; the text is an example.
    Required(&'static str),
}

/// One line of a table of settings.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) aliases: &'static [&'static str],
    /// Unit or type. This and other fields for tests make the shipped files.
    #[cfg(test)]
    pub(super) kind: &'static str,
    #[cfg(test)]
    pub(super) doc: &'static [&'static str],
    pub(super) initial: Initial,
    /// Turns a text of `initial` into what stands in a file.
    #[cfg(test)]
    pub(super) literal: fn(&str) -> String,
    pub(super) reload: Reload,
    pub(super) effect: Effect,
    /// Irregular environment variables.
    pub(super) environment: &'static [&'static str],
}

/// A struct whose fields are the settings of a section; made by `section!`.
pub(super) trait Section: Default + PartialEq {
    /// Name in the file.
    const NAME: &'static str;
    /// Are unknown keys warnings rather than errors?
    const TOLERANT: bool;
    /// What it is for, line by line.
    #[cfg(test)]
    const ABOUT: &'static [&'static str];
    /// One for each field, in order.
    const SETTINGS: &'static [Setting];

    /// Reads one field.
    fn set(&mut self, name: &str, input: Input<'_>) -> Result<(), Vec<Flaw>>;
    /// For each setting, its literal as in a file. Secrets are masked.
    fn literals(&self) -> Vec<Option<String>>;
    /// For each setting, its value for people.
    fn shown(&self) -> Vec<String>;
    /// For each setting, is it different there? Secrets are compared too.
    fn differing(&self, other: &Self) -> Vec<bool>;

    /// Settings that have another value than by default; a required one always has.
    fn changed(&self) -> impl Iterator<Item = &'static Setting> {
        let differing = self.differing(&Self::default());
        Self::SETTINGS
            .iter()
            .zip(differing)
            .filter_map(|(setting, differs)| {
                (differs || matches!(setting.initial, Initial::Required(_))).then_some(setting)
            })
    }
}

/// A table of settings.
///
/// ```text
/// /// Doc comment, shown in pgdog.toml.
/// name | alias: Type = default "value" or unset "example" or required "example", Reload, Effect, env "NAME";
/// ```
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident = $title:literal $($tolerant:ident)?;
        $(
            $(#[doc = $doc:literal])+
            $field:ident $(| $alias:ident)* : $type:ty = $initial:ident $text:literal, $reload:ident, $effect:ident $(, env $env:literal)*;
        )+
    ) => {
        $(#[doc = $about])+
        #[allow(clippy::struct_excessive_bools, reason = "the shape is the file's")]
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name { $( $(#[doc = $doc])+ pub(super) $field: $type, )+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $crate::config::section::initial!($initial, $type, $text), )+ }
            }
        }

        impl $crate::config::section::Section for $name {
            const NAME: &'static str = $title;
            const TOLERANT: bool = $crate::config::section::tolerant!($($tolerant)?);
            #[cfg(test)]
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const SETTINGS: &'static [$crate::config::section::Setting] = &[ $(
                $crate::config::section::Setting {
                    name: stringify!($field),
                    aliases: &[$(stringify!($alias)),*],
                    #[cfg(test)]
                    kind: <$type as $crate::config::value::Value>::KIND,
                    #[cfg(test)]
                    doc: &[$($doc),+],
                    initial: $crate::config::section::kind_of_initial!($initial, $text),
                    #[cfg(test)]
                    literal: |text| {
                        let value = $crate::config::section::builtin::<$type>(text);
                        $crate::config::value::Value::literal(&value).unwrap_or_default()
                    },
                    reload: $crate::config::section::Reload::$reload,
                    effect: $crate::config::section::Effect::$effect,
                    environment: &[$($env),*],
                },
            )+ ];

            fn set(
                &mut self,
                name: &str,
                input: $crate::config::value::Input<'_>,
            ) -> Result<(), Vec<$crate::config::value::Flaw>> {
                match name {
                    $( stringify!($field) => self.$field = $crate::config::value::Value::read(input)?, )+
                    _ => return Err(input.flaw("unknown key")),
                }
                Ok(())
            }

            fn literals(&self) -> Vec<Option<String>> {
                vec![$( $crate::config::value::Value::literal(&self.$field) ),+]
            }

            fn shown(&self) -> Vec<String> {
                vec![$( $crate::config::value::Value::show(&self.$field) ),+]
            }

            fn differing(&self, other: &Self) -> Vec<bool> {
                vec![$( self.$field != other.$field ),+]
            }
        }
    };
}

macro_rules! initial {
    (unset, $type:ty, $text:literal) => {
        <$type>::default()
    };
    ($_:ident, $type:ty, $text:literal) => {
        $crate::config::section::builtin::<$type>($text)
    };
}

macro_rules! kind_of_initial {
    (default, $text:literal) => {
        $crate::config::section::Initial::Default($text)
    };
    (unset, $text:literal) => {
        $crate::config::section::Initial::Unset($text)
    };
    (required, $text:literal) => {
        $crate::config::section::Initial::Required($text)
    };
}

macro_rules! tolerant {
    () => {
        false
    };
    (tolerant) => {
        true
    };
}

pub(super) use {initial, kind_of_initial, section, tolerant};

/// A default or an example of a table of settings.
pub(super) fn builtin<T: Value>(text: &str) -> T {
    match T::read(Input::Word(text)) {
        Ok(value) => value,
        Err(flaws) => panic!("tables of settings hold good values, but {text}: {flaws:?}"),
    }
}
