//! A SELECT that is run in parts: what is asked first stands as rows in the text of what is asked then.
//!
//! A server looks at the client's own statement first: what is wrong with it is told in PostgreSQL's words, and the types
//! of its parameters and columns are known.

use std::sync::Arc;

use crate::error::Error;
use crate::merge::gather::{with_rows, Gathered, Terms};
use crate::merge::{can_merge, is_of_statement, refused, Promised};
use crate::protocol::backend::tag;
use crate::protocol::error_fields::{put_error, Fields};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frame::{Frames, BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend::{Parse, Target, SYNC};
use crate::protocol::rows::ParameterDescription;
use crate::routing::verdict::{Place, Run, SelectPart};
use crate::sql::across::{gathered_name, Across, Asked};
use crate::sql::date_style::DateStyle;
use crate::sql::session::Effects;
use crate::types::enums::Enums;

use super::super::{End, Session};
use super::call::{Answers, Call, Order, Shown};
use super::charge::Charge;
use super::kept::{Kept, Messages};
use super::messages::put_parse;
use super::plan::{Form, Planned};
use super::steps::Stepped;

/// Bytes of the rows that stand in the text of another query, all parts together. The server has to read that text.
const GATHERED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What answers a statement that is only described.
pub(super) const DESCRIPTION: &Answers = &[
    (Owed::ParseComplete, Fate::Forward),
    (Owed::Description, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// What a server says of the client's own statement.
pub(super) struct Promise {
    /// Types of parameters, as in Parse.
    types: Vec<u32>,
    rows: Promised,
}

impl Session {
    /// Runs a SELECT whose rows may turn out to be of types that cannot be compared here: a server knows, and if they
    /// are it compares them.
    pub(super) async fn run_or_apart(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        apart: &Across,
    ) -> Result<Stepped, End> {
        let (plan, text) = match &run.gathering {
            // What its last part is asked is not known before the others have been. Its visible columns are the
            // client's own.
            Some(across) if across.asked.plan.hidden > 0 => {
                return self.run_in_parts(step, run, apart, None).await;
            }
            Some(across) => (&across.asked.plan, None),
            None => (&run.merge, run.text.as_deref()),
        };
        let Some(promise) = self.promise_of(step, text).await? else {
            return Ok(Stepped::Failed);
        };
        let described = promise.rows.rows.get(HEADER_BYTES..).unwrap_or_default();
        let (values, enums) = (self.value_facts(), &promise.rows.enums);
        match (can_merge(plan, described, &values, enums), &run.gathering) {
            (true, None) => self.run_as(step, run, None).await,
            (true, Some(across)) => self.run_in_parts(step, run, across, Some(promise)).await,
            // That is of another text than the client's, if there is one.
            (false, _) => {
                let promise = text.is_none().then_some(promise);
                self.run_in_parts(step, run, apart, promise).await
            }
        }
    }

    /// Does a server take the client's own statement? False: the client was told why not.
    pub(super) async fn is_taken(&mut self, step: &Planned<'_>) -> Result<bool, End> {
        let promise = Box::pin(self.promise_of(step, None)).await?;
        Ok(promise.is_some())
    }

    /// Runs the parts of a SELECT one after the other. The client gets the last one's rows. `promise`: what a server says of the
    /// client's statement, if it was asked already.
    pub(super) async fn run_in_parts(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        across: &Across,
        promise: Option<Promise>,
    ) -> Result<Stepped, End> {
        let promise = match promise {
            Some(promise) => Some(promise),
            None => self.promise_of(step, None).await?,
        };
        let Some(promise) = promise else {
            return Ok(Stepped::Failed);
        };
        let mut gathered: Vec<Gathered> = Vec::with_capacity(across.gathered.len());
        let mut charge = Charge::new(&self.state);
        let mut part = SelectPart {
            types: promise.types,
            gathered: true,
        };
        for asked in &across.gathered {
            let held: usize = gathered.iter().map(Gathered::held_bytes).sum();
            let terms = self.terms(GATHERED_BYTES_MAX.saturating_sub(held));
            let part = with_part(asked, &part, run, &gathered);
            let rows = Gathered::new(terms, self.enums_at(&part.place));
            let rows = rows.because(across.why.clone());
            match self.gather(step, &part, rows).await? {
                Some(rows) => gathered.push(rows),
                None => return Ok(Stepped::Failed),
            }
            let held = gathered.iter().map(Gathered::held_bytes).sum();
            if let Err(error) = charge.set(held) {
                return Ok(self.failed_with(&error));
            }
        }
        part.gathered = false;
        let last = Run {
            copying: run.copying.clone(),
            ..with_part(&across.asked, &part, run, &gathered)
        };
        drop(gathered);
        self.run_as(step, &last, Some(promise.rows)).await
    }

    /// Asks for rows that another part needs. `None`: it failed, and the client was told.
    async fn gather(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        rows: Gathered,
    ) -> Result<Option<Gathered>, End> {
        let slice = match step.slice(run) {
            Ok(slice) => slice,
            Err(error) => {
                self.tell(&error);
                return Ok(None);
            }
        };
        let (messages, owed, _) = step.messages(run, 0);
        let call = Call {
            messages: &messages,
            owed,
            commits: false,
            shown: Shown::Reply {
                plan: Arc::new(run.merge.clone()),
                slice,
                described: true,
                plain: matches!(step.form, Form::Query),
                notes: Vec::new(),
                names: false,
                export: None,
                promised: None,
                told: None,
                first: None,
                order: Order::Together,
            },
        };
        let mut kept = Kept::rows(rows);
        let done = self.call_apart(step, &run.place, &call, &mut kept).await?;
        Ok(match (done, kept.messages) {
            (true, Messages::Rows(rows)) => Some(rows),
            _ => None,
        })
    }

    /// What a server says of the client's own statement, or of this text in its place. `None`: it does not take it, and
    /// the client was told.
    async fn promise_of(
        &mut self,
        step: &Planned<'_>,
        instead: Option<&[u8]>,
    ) -> Result<Option<Promise>, End> {
        let mut messages = Vec::new();
        match &step.form {
            Form::Query => {
                Parse::encode(&mut messages, b"", instead.unwrap_or(step.text), []);
            }
            Form::Portal { definition, .. } => put_parse(definition, instead, &mut messages),
        }
        Target::Statement(b"").encode_describe(&mut messages);
        messages.extend_from_slice(&SYNC);
        let call = Call {
            messages: &[messages],
            owed: DESCRIPTION,
            commits: false,
            shown: Shown::Description,
        };
        let mut kept = Kept::whole();
        let told = self.call_apart(step, &Place::Any, &call, &mut kept).await?;
        let (true, Messages::Whole(bytes)) = (told, kept.messages) else {
            return Ok(None);
        };
        let mut promise = Promise {
            types: Vec::new(),
            rows: Promised {
                rows: Box::default(),
                enums: self.enums_at(&Place::Any),
            },
        };
        let mut frames = Frames::new(&bytes, BODY_BYTES_MAX);
        while let Some(Ok(frame)) = frames.next() {
            match frame.tag {
                tag::PARAMETER_DESCRIPTION => {
                    let types = ParameterDescription::parse(frame.body);
                    promise.types = types
                        .map(|found| found.types.iter().collect())
                        .unwrap_or_default();
                }
                tag::ROW_DESCRIPTION => promise.rows.rows = frame.message.into(),
                _ => {}
            }
        }
        if let Err(error) = self.check_declared(promise.types.iter().copied()) {
            self.tell(&error);
            return Ok(None);
        }
        if promise.rows.rows.is_empty() {
            self.tell(&refused("a query without columns"));
            return Ok(None);
        }
        Ok(Some(promise))
    }

    /// Runs a call of which the client hears only if it fails. False: it did.
    async fn call_apart(
        &mut self,
        step: &Planned<'_>,
        place: &Place,
        call: &Call<'_>,
        kept: &mut Kept,
    ) -> Result<bool, End> {
        let want = step.want(self.is_decided());
        let shards = self.shards_at(place);
        let Some(mut legs) = self.take_legs(&shards, want).await? else {
            return Ok(false);
        };
        let outcome = self.call_for(&mut legs, call, kept).await;
        let went = self.end_call(legs, &Effects::default(), outcome)?;
        if went == Stepped::Done && kept.error.is_none() {
            return Ok(true);
        }
        let mut error = kept.error.take().unwrap_or_default();
        let body = error.get(HEADER_BYTES..).unwrap_or_default();
        let is_rewritten = matches!(call.shown, Shown::Reply { .. });
        if is_rewritten && is_of_statement(body) {
            // The server has taken the statement as the client has it.
            error.clear();
            put_error(&mut error, &of_parts());
        } else if let Ok(fields) = Fields::parse(body) {
            let mut told = Vec::new();
            fields.encode_error_behind(step.before(), &mut told);
            error = told;
        }
        self.sharded().transaction.fail();
        self.link.meter.error();
        self.stream.send_vec(error);
        Ok(false)
    }

    /// The enums of the server that describes the rows of what runs there.
    fn enums_at(&mut self, place: &Place) -> Arc<Enums> {
        let shards = self.shards_at(place);
        let first = shards.first().copied().unwrap_or_default();
        self.cluster.known().enums_of(first)
    }

    /// Is that the style of dates?
    fn writes_iso_dates(&self) -> bool {
        let set = self.settings.current().get(b"datestyle");
        let says = match set {
            Some(set) => DateStyle::of(set),
            None => DateStyle::of_text(&self.reported("datestyle")),
        };
        // Where only the order was set, it may be another one of the role's.
        says.and_then(|says| says.style) == Some("ISO")
    }

    /// How values may be gathered in this session.
    fn terms(&self, bytes_max: usize) -> Terms {
        let facts = self.cluster.known();
        let values = self.value_facts();
        Terms {
            known: values.known,
            bytes_max,
            iso_dates: self.writes_iso_dates(),
            floats_exact: values.floats_exact,
            plain_collations: facts.text.plain || facts.text.ordered_by_bytes,
            overlapping: self.session_dialect().overlapping,
        }
    }
}

/// A part with the rows that it needs.
fn with_part(asked: &Asked, part: &SelectPart, run: &Run, gathered: &[Gathered]) -> Run {
    Run {
        text: Some(with_rows(&asked.text, gathered, gathered_name).into()),
        ..Run::asked(asked, part.clone(), run.want)
    }
}

fn of_parts() -> Error {
    refused("a query whose parts depend on each other")
}
