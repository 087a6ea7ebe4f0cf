//! What the admin database understands: text to commands.
//!
//! Keywords in any case; arguments keep theirs, and may be quoted; a semicolon at the end is optional.

use crate::error::{Error, Fault};
use crate::orders::Of;
use crate::protocol::sqlstate::SqlState;

use super::driver::{self, Driver};
use super::show::{self, Show};
use super::words::{self, Word};

pub use super::words::TEXT_BYTES_MAX;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Rows about what is there and what is going on.
    Show(Show),
    /// Something is done.
    Act(Act),
    /// A setting is changed in memory.
    Set {
        /// Its name, in lower case.
        name: String,
        /// As written, without quotes.
        value: String,
    },
    /// What drivers say to any server. It concerns only this session.
    Driver(Driver),
}

/// Commands that act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reads both files again.
    Reload,
    /// Replaces every server connection.
    Reconnect {
        /// Of this database only.
        database: Option<String>,
    },
    /// Lets clients wait and closes server connections that nobody uses.
    Pause {
        /// Of whom.
        of: Of,
        /// Answers only when no connection is left.
        wait: bool,
    },
    /// Undoes `Pause`, and what `Kill` did.
    Resume(Of),
    /// Holds new transactions, or lets them go on.
    Maintenance {
        /// Hold them?
        on: bool,
        /// Of this database only.
        database: Option<String>,
    },
    /// Stops reads to a pool, or all pools.
    Ban(Option<u64>),
    /// Lifts bans.
    Unban(Option<u64>),
    /// Checks servers now.
    Healthcheck(Option<u64>),
    /// Connects to a server outside of pools.
    Probe {
        /// Where.
        url: String,
    },
    /// Ends the process.
    Shutdown(Shutdown),
    /// Forgets unused prepared statements above the limit.
    ResetPrepared,
    /// Forgets analysed texts.
    ResetQueryCache,
    /// Refuses new clients of a database.
    Disable {
        /// Which.
        database: String,
    },
    /// Lets them in again.
    Enable {
        /// Which.
        database: String,
    },
    /// Closes clients and servers at once.
    Kill {
        /// Of this database only.
        database: Option<String>,
    },
    /// Closes one client and its server.
    KillClient {
        /// As in SHOW CLIENTS.
        id: i64,
    },
    /// Answers when no connection is left that is to be closed.
    WaitClose {
        /// Of this database only.
        database: Option<String>,
    },
    /// Known, but its feature is not there.
    Missing(Missing),
}

/// A command that is known, and why it is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The command.
    pub command: &'static str,
    /// What is missing.
    pub reason: &'static str,
}

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Like SIGINT: when transactions have ended or `shutdown_timeout` has passed.
    Graceful,
    /// When servers are released, however long that takes.
    WaitForServers,
    /// When clients have left, however long that takes.
    WaitForClients,
}

/// The commands of a text, in order; none if there is nothing in it.
///
/// Errors: the first one that is not understood. Nothing of the text should be done then.
pub fn parse(text: &str) -> Result<Vec<Command>, Error> {
    if text.len() > TEXT_BYTES_MAX {
        let text = format!("a command has at most {TEXT_BYTES_MAX} bytes");
        return Err(Error::error(
            Fault::Client,
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            text,
        ));
    }
    let statements = words::statements(text)
        .map_err(|_| unknown().detail("a quoted word or comment does not end"))?;
    statements.iter().map(|words| one(words)).collect()
}

/// 42601, for whatever is not understood.
pub(super) fn unknown() -> Error {
    Error::error(
        Fault::Client,
        SqlState::SYNTAX_ERROR,
        "unknown admin command",
    )
    .hint("SHOW HELP lists the commands")
}

/// 0A000, for what is known and not offered.
pub fn missing(missing: Missing) -> Error {
    let Missing { command, reason } = missing;
    let text = format!("{command} is not supported in the admin database");
    Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text).detail(reason)
}

fn one(words: &[Word]) -> Result<Command, Error> {
    let mut words = Words(words);
    let command = match words.keyword().as_deref() {
        Some("SHOW") => show(&mut words)?,
        Some("SET") => set(&mut words)?,
        Some("RESET") if words.accept(&["PREPARED"]) => Command::Act(Act::ResetPrepared),
        Some("RESET") if words.accept(&["QUERY_CACHE"]) || words.accept(&["QUERY", "CACHE"]) => {
            Command::Act(Act::ResetQueryCache)
        }
        Some(keyword) => match act(keyword, &mut words)? {
            Some(act) => Command::Act(act),
            None => Command::Driver(driver::parse(keyword, &mut words).ok_or_else(unknown)?),
        },
        None => return Err(unknown()),
    };
    words.end()?;
    Ok(command)
}

fn show(words: &mut Words<'_>) -> Result<Command, Error> {
    if let Some(show) = show::parse(words)? {
        return Ok(Command::Show(show));
    }
    driver::show(words).map(Command::Driver).ok_or_else(unknown)
}

/// `SET [SESSION | LOCAL] name { TO | = } value`, of a setting of ours or of PostgreSQL's.
fn set(words: &mut Words<'_>) -> Result<Command, Error> {
    if let Some(driver) = driver::set(words) {
        return Ok(Command::Driver(driver));
    }
    let name = words.argument().ok_or_else(unknown)?.to_ascii_lowercase();
    let (Some(value), None) = (words.value(), words.0.first()) else {
        return Err(unknown());
    };
    Ok(Command::Set { name, value })
}

fn act(keyword: &str, words: &mut Words<'_>) -> Result<Option<Act>, Error> {
    const RESHARDING: &str = "resharding is not available yet";
    Ok(Some(match keyword {
        "RELOAD" => Act::Reload,
        "RECONNECT" => Act::Reconnect {
            database: words.argument(),
        },
        "PAUSE" => {
            let (of, wait) = of(words, true);
            Act::Pause { of, wait }
        }
        "RESUME" => Act::Resume(of(words, false).0),
        "MAINTENANCE" => {
            let on = words.accept(&["ON"]);
            if !on && !words.accept(&["OFF"]) {
                return Err(unknown());
            }
            Act::Maintenance {
                on,
                database: words.argument(),
            }
        }
        "BAN" => Act::Ban(words.id()?),
        "UNBAN" => Act::Unban(words.id()?),
        "HEALTHCHECK" => Act::Healthcheck(words.id()?),
        "PROBE" => Act::Probe {
            url: words.argument().ok_or_else(unknown)?,
        },
        "SHUTDOWN" if words.accept(&["WAIT_FOR_SERVERS"]) => {
            Act::Shutdown(Shutdown::WaitForServers)
        }
        "SHUTDOWN" if words.accept(&["WAIT_FOR_CLIENTS"]) => {
            Act::Shutdown(Shutdown::WaitForClients)
        }
        "SHUTDOWN" => Act::Shutdown(Shutdown::Graceful),
        "DISABLE" => Act::Disable {
            database: words.argument().ok_or_else(unknown)?,
        },
        "ENABLE" => Act::Enable {
            database: words.argument().ok_or_else(unknown)?,
        },
        "KILL" => Act::Kill {
            database: words.argument(),
        },
        "KILL_CLIENT" => {
            let id = words.argument().and_then(|id| id.parse().ok());
            Act::KillClient {
                id: id.ok_or_else(unknown)?,
            }
        }
        "WAIT_CLOSE" => Act::WaitClose {
            database: words.argument(),
        },
        "SUSPEND" => named(
            "SUSPEND",
            "sockets are not handed over; PAUSE is the substitute",
        ),
        "SETUP" => gone(
            words,
            "SETUP SCHEMA",
            "the pgdog schema is not available yet",
        ),
        "RESHARD" => gone(words, "RESHARD", RESHARDING),
        "COPY_DATA" => gone(words, "COPY_DATA", RESHARDING),
        "SCHEMA_SYNC" => gone(words, "SCHEMA_SYNC", RESHARDING),
        "REPLICATE" => gone(words, "REPLICATE", RESHARDING),
        "CUTOVER" => gone(words, "CUTOVER", RESHARDING),
        "STOP_TASK" => gone(words, "STOP_TASK", RESHARDING),
        _ => return Ok(None),
    }))
}

/// `[database | user database] [WAIT]`.
fn of(words: &mut Words<'_>, may_wait: bool) -> (Of, bool) {
    let wait = match words.0.split_last() {
        Some((Word::Bare(last), rest)) if may_wait && last.eq_ignore_ascii_case("WAIT") => {
            words.0 = rest;
            true
        }
        _ => false,
    };
    let of = match (words.argument(), words.argument()) {
        (Some(user), Some(database)) => Of::User { user, database },
        (Some(database), None) => Of::Database(database),
        (None, _) => Of::All,
    };
    (of, wait)
}

fn named(command: &'static str, reason: &'static str) -> Act {
    Act::Missing(Missing { command, reason })
}

/// Known with any arguments.
fn gone(words: &mut Words<'_>, command: &'static str, reason: &'static str) -> Act {
    words.0 = &[];
    named(command, reason)
}

impl Command {
    /// What CommandComplete says.
    pub fn tag(&self) -> String {
        match self {
            Self::Show(show) => show.tag().to_owned(),
            Self::Act(act) => act.tag(),
            Self::Set { .. } => "SET".to_owned(),
            Self::Driver(driver) => driver.tag(),
        }
    }
}

impl Act {
    /// What CommandComplete says.
    pub fn tag(&self) -> String {
        let tag = match self {
            Self::Reload => "RELOAD",
            Self::Reconnect { .. } => "RECONNECT",
            Self::Pause { .. } => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Maintenance { on, database } => {
                let on = if *on { "ON" } else { "OFF" };
                return match database {
                    Some(database) => format!("MAINTENANCE {on} {database}"),
                    None => format!("MAINTENANCE {on}"),
                };
            }
            Self::Ban(_) => "BAN",
            Self::Unban(_) => "UNBAN",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Probe { .. } => "PROBE",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::ResetPrepared => "RESET PREPARED",
            Self::ResetQueryCache => "RESET QUERY CACHE",
            Self::Disable { .. } => "DISABLE",
            Self::Enable { .. } => "ENABLE",
            Self::Kill { .. } => "KILL",
            Self::KillClient { .. } => "KILL_CLIENT",
            Self::WaitClose { .. } => "WAIT_CLOSE",
            Self::Missing(missing) => missing.command,
        };
        tag.to_owned()
    }
}

/// Words not read yet.
pub(super) struct Words<'a>(pub(super) &'a [Word]);

impl Words<'_> {
    /// Takes the next word, in capitals, if it may be a keyword.
    pub(super) fn keyword(&mut self) -> Option<String> {
        match self.0.split_first() {
            Some((Word::Bare(word), rest)) => {
                self.0 = rest;
                Some(word.to_ascii_uppercase())
            }
            _ => None,
        }
    }

    /// Takes these keywords if they are what comes next.
    pub(super) fn accept(&mut self, keywords: &[&str]) -> bool {
        let here = self.0.get(..keywords.len()).is_some_and(|words| {
            words.iter().zip(keywords).all(|(word, keyword)| {
                matches!(word, Word::Bare(word) if word.eq_ignore_ascii_case(keyword))
            })
        });
        if here {
            self.0 = self.0.get(keywords.len()..).unwrap_or_default();
        }
        here
    }

    /// Takes this symbol if it comes next.
    pub(super) fn symbol(&mut self, symbol: char) -> bool {
        match self.0.split_first() {
            Some((Word::Symbol(found), rest)) if *found == symbol => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes an argument, bare or quoted.
    pub(super) fn argument(&mut self) -> Option<String> {
        match self.0.split_first() {
            Some((Word::Bare(word) | Word::Quoted(word), rest)) => {
                self.0 = rest;
                Some(word.clone())
            }
            _ => None,
        }
    }

    /// Takes `{ TO | = } value`.
    pub(super) fn value(&mut self) -> Option<String> {
        (self.symbol('=') || self.accept(&["TO"]))
            .then(|| self.argument())
            .flatten()
    }

    /// Takes the number of a pool, if there is one.
    fn id(&mut self) -> Result<Option<u64>, Error> {
        self.argument()
            .map(|id| id.parse().map_err(|_| unknown()))
            .transpose()
    }

    fn end(&self) -> Result<(), Error> {
        match self.0 {
            [] => Ok(()),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Command {
        let mut commands = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(commands.len(), 1, "{text}");
        commands.remove(0)
    }

    #[test]
    fn commands_that_act() {
        let name = |name: &str| Some(name.to_owned());
        let user = |user: &str, database: &str| Of::User {
            user: user.to_owned(),
            database: database.to_owned(),
        };
        let cases = [
            ("reload;", Act::Reload, "RELOAD"),
            ("RECONNECT", Act::Reconnect { database: None }, "RECONNECT"),
            (
                "reconnect Mixed",
                Act::Reconnect {
                    database: name("Mixed"),
                },
                "RECONNECT",
            ),
            (
                "PAUSE",
                Act::Pause {
                    of: Of::All,
                    wait: false,
                },
                "PAUSE",
            ),
            (
                "PAUSE WAIT",
                Act::Pause {
                    of: Of::All,
                    wait: true,
                },
                "PAUSE",
            ),
            (
                "pause \"wait\" wait",
                Act::Pause {
                    of: Of::Database("wait".to_owned()),
                    wait: true,
                },
                "PAUSE",
            ),
            (
                "PAUSE alice Prod WAIT",
                Act::Pause {
                    of: user("alice", "Prod"),
                    wait: true,
                },
                "PAUSE",
            ),
            (
                "RESUME alice 'Prod 1'",
                Act::Resume(user("alice", "Prod 1")),
                "RESUME",
            ),
            (
                "MAINTENANCE ON Prod",
                Act::Maintenance {
                    on: true,
                    database: name("Prod"),
                },
                "MAINTENANCE ON Prod",
            ),
            (
                "maintenance off",
                Act::Maintenance {
                    on: false,
                    database: None,
                },
                "MAINTENANCE OFF",
            ),
            ("BAN 3", Act::Ban(Some(3)), "BAN"),
            ("UNBAN", Act::Unban(None), "UNBAN"),
            ("KILL_CLIENT -7", Act::KillClient { id: -7 }, "KILL_CLIENT"),
            (
                "shutdown wait_for_clients",
                Act::Shutdown(Shutdown::WaitForClients),
                "SHUTDOWN",
            ),
            ("RESET PREPARED", Act::ResetPrepared, "RESET PREPARED"),
        ];
        for (text, act, tag) in cases {
            let command = only(text);
            assert_eq!(command.tag(), tag);
            assert_eq!(command, Command::Act(act), "{text}");
        }
    }

    #[test]
    fn known_commands_whose_feature_is_absent() {
        for text in ["RESHARD a b c", "SUSPEND", "CUTOVER", "SETUP SCHEMA"] {
            let Command::Act(Act::Missing(absent)) = only(text) else {
                panic!("{text}");
            };
            assert_eq!(missing(absent).code, SqlState::FEATURE_NOT_SUPPORTED);
        }
    }

    #[test]
    fn settings() {
        for text in [
            "SET query_timeout TO 5000",
            "set Query_Timeout = '5000';",
            "SET query_timeout=5000",
        ] {
            assert_eq!(
                only(text),
                Command::Set {
                    name: "query_timeout".to_owned(),
                    value: "5000".to_owned()
                }
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_named_so() {
        for text in [
            "FROBNICATE",
            "RELOAD now please",
            "PAUSE a b c",
            "BAN three",
            "SET",
            "SET query_timeout",
            "SET query_timeout TO",
            "SET query_timeout TO 1 2",
            "SHOW",
            "SHOW NOTHING",
            "\"RELOAD\"",
            "MAINTENANCE",
            "MAINTENANCE PERHAPS",
            "KILL_CLIENT",
            "SHOW POOLS please",
            "SHOW POOLS; FROBNICATE",
            "SELECT * FROM t",
            "PAUSE 'a",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.code, SqlState::SYNTAX_ERROR, "{text}");
            assert_eq!(error.severity(), "ERROR");
        }
    }
}
