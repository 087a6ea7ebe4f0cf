//! The query log's outputs: opened here, as no core may wait for a file.

use std::fs::OpenOptions;

use cores::journal::{Journal, Outputs};

use crate::config::LogSettings;

/// Lines that may wait for the writer's thread.
const LINES_MAX: usize = 10_000;

/// Where queries are logged, if they are.
pub(super) struct QueryLog(Journal);

impl QueryLog {
    /// Errors: the file cannot be opened, in words.
    pub(super) fn start(settings: &LogSettings) -> Result<Self, String> {
        let journal = Journal::start(LINES_MAX)
            .map_err(|error| format!("cannot start the query log: {error}"))?;
        let log = Self(journal);
        log.direct(settings)?;
        Ok(log)
    }

    /// The cores' end.
    pub(super) fn journal(&self) -> Journal {
        self.0.clone()
    }

    /// Opens the outputs, the same ones anew: whoever rotates the file reloads afterwards. Errors: it cannot be
    /// opened, and queries go where they went.
    pub(super) fn direct(&self, settings: &LogSettings) -> Result<(), String> {
        let open = |path| OpenOptions::new().append(true).create(true).open(path);
        let file = settings.queries_file.as_ref().map(|path| {
            open(path).map_err(|error| format!("cannot open query_log {}: {error}", path.display()))
        });
        let outputs = Outputs {
            file: file.transpose()?,
            stdout: settings.queries_to_stdout,
        };
        self.0
            .direct(outputs)
            .map_err(|error| format!("cannot change the query log: {error}"))
    }
}

impl Drop for QueryLog {
    fn drop(&mut self) {
        self.0.flush();
    }
}
