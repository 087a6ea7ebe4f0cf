//! What clients send, for the query log and for the warnings about slow statements. Sessions have an [`Audit`] only
//! while a setting asks for one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::protocol::frame::{Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Bind, Parse};
use crate::sql::lexer::Dialect;
use crate::sql::sample;

use super::super::core_state::CoreState;
use super::request::statement_of_bind;
use super::{Relay, Session};

/// Texts without an answer that are remembered for the warning; further ones of a pipeline are not.
const TEXTS_MAX: usize = 64;

/// What is watched in one session.
pub(super) struct Audit {
    /// Every query goes to the journal.
    journal: bool,
    slow_query: Option<Duration>,
    slow_analysis: Option<Duration>,
    chars_max: usize,
    /// What statements would do if the database were sharded is found out.
    rehearses: bool,
    /// The last unnamed statement, for that.
    unnamed: Option<Box<[u8]>>,
    /// Answers (ReadyForQuery) so far.
    answers: u64,
    /// What was sent, and with which answer it will be done.
    texts: VecDeque<(u64, String)>,
}

impl Audit {
    /// `None`: nothing is watched.
    pub(super) fn of(state: &CoreState) -> Option<Box<Self>> {
        let log = &state.config().log;
        let journal = log.queries_file.is_some() || log.queries_to_stdout;
        let (slow_query, slow_analysis) = (log.min_duration_query, log.min_duration_parse);
        let rehearses = state.config().routing.dry_run;
        let watches = journal || rehearses || slow_query.is_some() || slow_analysis.is_some();
        watches.then(|| {
            Box::new(Self {
                journal,
                slow_query,
                slow_analysis,
                chars_max: log.query_sample_chars,
                rehearses,
                unnamed: None,
                answers: 0,
                texts: VecDeque::new(),
            })
        })
    }

    /// When an analysis begins, if its time matters.
    pub(super) fn analysis_begins(&self, state: &CoreState) -> Option<(Instant, Duration)> {
        Some((state.core.clock(), self.slow_analysis?))
    }

    fn sent(&mut self, text: String, unanswered: u32) {
        if self.slow_query.is_some() && self.texts.len() < TEXTS_MAX {
            let answer = self.answers + u64::from(unanswered) + 1;
            self.texts.push_back((answer, text));
        }
    }

    /// ReadyForQuery: the first text that it answers.
    fn answered(&mut self) -> Option<String> {
        self.answers += 1;
        let mut first = None;
        while let Some((answer, _)) = self.texts.front() {
            if *answer > self.answers {
                break;
            }
            let text = self.texts.pop_front().map(|(_, text)| text);
            first = first.or(text);
        }
        first
    }
}

impl Relay<'_> {
    /// A message is passed to the server.
    #[cold]
    pub(super) fn audit(&mut self, header: Header, bytes: &[u8]) {
        let end = header.frame_bytes().min(bytes.len());
        let body = bytes.get(HEADER_BYTES..end).unwrap_or_default();
        let dialect = self.dialect();
        let rehearses = self
            .session
            .audit
            .as_ref()
            .is_some_and(|audit| audit.rehearses);
        if rehearses {
            self.session.rehearse_message(header.tag, body);
        }
        self.session.audit_message(header.tag, body, dialect);
    }

    /// The same for the message at the front.
    #[cold]
    pub(super) fn audit_next(&mut self, header: Header) {
        let inbound = std::mem::take(&mut self.session.inbound);
        self.audit(header, inbound.bytes());
        self.session.inbound = inbound;
    }

    /// An analysis has ended.
    #[cold]
    pub(super) fn analysed(&self, text: &[u8], begun: Instant, limit: Duration) {
        let took = self.session.state.core.clock() - begun;
        if took < limit {
            return;
        }
        let chars = self
            .session
            .audit
            .as_ref()
            .map_or(0, |audit| audit.chars_max);
        let client = self.session.link.key.process_id();
        tracing::warn!(
            client,
            us = took.as_micros(),
            bytes = text.len(),
            "slow analysis: {}",
            sample(text, self.dialect(), chars)
        );
    }
}

impl Session {
    /// `dry_run`: a Query, or a Bind with its values.
    fn rehearse_message(&mut self, tag: u8, body: &[u8]) {
        match tag {
            tag::QUERY => self.rehearse(body.strip_suffix(b"\0").unwrap_or(body), None),
            tag::PARSE => {
                let parse = Parse::parse(body).ok();
                let parse = parse.filter(|parse| parse.statement.is_empty());
                if let (Some(parse), Some(audit)) = (parse, &mut self.audit) {
                    audit.unnamed = Some(parse.content().into());
                }
            }
            tag::BIND => {
                let Ok(bind) = Bind::parse(body) else { return };
                let named = self.statements.get(bind.statement).ok().cloned();
                let content = match &named {
                    Some(statement) => Some(statement.definition()),
                    None => self
                        .audit
                        .as_ref()
                        .and_then(|audit| audit.unnamed.as_deref()),
                };
                let Some(Ok(parse)) = content.map(Parse::of_content) else {
                    return;
                };
                let types: Vec<u32> = parse.types.iter().collect();
                self.rehearse(parse.query, Some((&bind, &types)));
            }
            _ => {}
        }
    }

    /// A message is run here, on several servers or none.
    pub(super) fn audit_run(&mut self, tag: u8, body: &[u8]) {
        if self.audit.is_some() {
            self.audit_message(tag, body, self.session_dialect());
        }
    }

    /// The same has been done, with all that was asked together with it since then.
    pub(super) fn audit_ran(&mut self, since: Instant) {
        if self.audit.is_some() {
            self.audit_answer(since);
        }
    }

    /// Only what runs a statement counts, and each statement once: a Query, a Parse that the server gets under the
    /// client's name, a Bind of a statement whose name we know.
    fn audit_message(&mut self, tag: u8, body: &[u8], dialect: Dialect) {
        match tag {
            tag::QUERY => {
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                self.audit_text(text, dialect);
            }
            tag::PARSE => match Parse::parse(body) {
                Ok(parse) if !self.renames(parse.statement.is_empty()) => {
                    self.audit_text(parse.query, dialect);
                }
                _ => {}
            },
            tag::BIND if self.translates() => {
                if let Some((_, name @ [_, ..])) = statement_of_bind(body) {
                    if let Ok(statement) = self.statements.get(name).cloned() {
                        self.audit_text(statement.text(), dialect);
                    }
                }
            }
            _ => {}
        }
    }

    fn audit_text(&mut self, text: &[u8], dialect: Dialect) {
        let unanswered = self.statements.syncs();
        let Some(audit) = &mut self.audit else {
            return;
        };
        let text = sample(text, dialect, audit.chars_max);
        if audit.journal {
            let client = self.link.key.process_id();
            let line = format!(
                "{}@{} [{client}] {text}",
                self.slot.names.user, self.slot.names.database
            );
            self.state.journal.write(line.into_bytes());
        }
        audit.sent(text, unanswered);
    }

    /// ReadyForQuery has come, of something that was sent at `since` or later.
    #[cold]
    pub(super) fn audit_answer(&mut self, since: Instant) {
        let Some(audit) = &mut self.audit else {
            return;
        };
        let text = audit.answered();
        let took = self.state.core.now().saturating_duration_since(since);
        if let (Some(text), Some(limit)) = (text, audit.slow_query) {
            if took >= limit {
                let client = self.link.key.process_id();
                let (user, database) = (&self.slot.names.user, &self.slot.names.database);
                tracing::warn!(
                    client,
                    user,
                    database,
                    ms = took.as_millis(),
                    "slow query: {text}"
                );
            }
        }
    }
}
