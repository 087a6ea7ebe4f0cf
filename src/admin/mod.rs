//! The admin database: text to commands, snapshots to rows. No I/O: `proxy/client/admin.rs` speaks the protocol,
//! `control` gathers and acts.

pub mod command;
pub mod driver;
pub mod extended;
pub mod rows;
pub mod show;
mod words;

pub use command::{Act, Command};
pub use rows::{Column, Rows, Type, Value};
pub use show::Show;

/// What a command is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Text of a NoticeResponse.
    pub notice: Option<String>,
    /// A ParameterStatus: name and value.
    pub status: Option<(&'static str, String)>,
    /// Its result; commands that act have none.
    pub rows: Option<Rows>,
    /// What CommandComplete says.
    pub tag: String,
}

impl Answer {
    /// Done, and nothing to show.
    pub fn done(tag: String) -> Self {
        Self {
            tag,
            ..Self::default()
        }
    }
}

impl Command {
    /// Columns of its result, if it has one.
    pub fn columns(&self) -> Option<Vec<Column>> {
        match self {
            Self::Show(show) => show.columns(),
            Self::Act(Act::Probe { .. }) => Some(rows::columns(Type::Int8, &["latency"]).collect()),
            Self::Act(_) | Self::Set { .. } => None,
            Self::Driver(driver) => driver.columns(),
        }
    }
}
