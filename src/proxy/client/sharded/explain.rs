//! EXPLAIN: the plan of one server, and where the query goes.

use crate::error::Error;
use crate::merge::{refused, MergePlan};
use crate::routing::verdict::{Place, Run};
use crate::sql::across::{gathered_name, Asked, Of};
use crate::sql::explain;
use crate::sql::statement::Statement;

use super::super::super::cluster::Want;
use super::super::Session;
use super::route::Source;

impl Session {
    /// EXPLAIN of a query: the plan of one server that has a part in it, and where the query goes.
    pub(super) fn explain(
        &mut self,
        statement: &Statement,
        analyze: bool,
        source: &Source<'_>,
    ) -> Result<Run, Error> {
        let Some(explain) = explain::divide(source.part, source.dialect) else {
            return Err(refused("this EXPLAIN"));
        };
        let explained = Source {
            part: explain.statement,
            ..*source
        };
        let run = self.route_query(statement, &explained)?;
        let shards = run.place.count(self.cluster.shards());
        let unsettled = shards > 1 || run.asking.is_some();
        if unsettled && analyze && (statement.writes() || statement.makes_table) {
            return Err(refused("EXPLAIN ANALYZE of a change"));
        }
        let run = match &run.gathering {
            None => run,
            // The plan of what is asked first; the others' depend on its rows.
            Some(across) => {
                let first = across.gathered.first().unwrap_or(&across.asked);
                Run {
                    text: Some(first.text.as_bytes().into()),
                    ..run
                }
            }
        };
        let told = explain.is_text && (shards > 1 || self.state.config().routing.expanded_explain);
        let notes = match told {
            true => describe(&run, self.cluster.shards()),
            false => Vec::new(),
        };
        let text = run.text.map(|text| [explain.head, &text].concat().into());
        let place = match run.place {
            Place::These(shards) => Place::These(shards.into_iter().take(1).collect()),
            Place::All => Place::These(vec![0]),
            place => place,
        };
        Ok(Run {
            text,
            notes,
            want: if analyze { Want::Write } else { run.want },
            ..Run::at(place)
        })
    }
}

/// Is an EXPLAIN of this planned here, and not sent to the shard that a hint names? `asked`: there is one. What analyzes a
/// change does it, and a hint does not take that to one shard if all have to have it.
pub(super) fn is_explained(statement: &Statement, analyze: bool, asked: Option<usize>) -> bool {
    let does = analyze && statement.writes();
    statement.kind.is_query() && (asked.is_none() || does)
}

/// What EXPLAIN says of a route.
fn describe(run: &Run, shards: usize) -> Vec<String> {
    if let Some(across) = &run.gathering {
        let asked = across.gathered.iter().enumerate();
        let asked = asked.map(|(index, asked)| (Some(index), asked));
        let told = asked.chain([(None, &across.asked)]);
        return told.map(|(index, asked)| told_of(index, asked)).collect();
    }
    let list = |shards: &[usize]| {
        let numbers: Vec<_> = shards.iter().map(ToString::to_string).collect();
        numbers.join(", ")
    };
    let place = match &run.place {
        Place::Any | Place::Balanced | Place::Joined => "pgdog: any shard".to_owned(),
        Place::These(shards) if shards.len() == 1 => format!("pgdog: shard {}", list(shards)),
        Place::These(some) => format!("pgdog: shards {}", list(some)),
        Place::All => format!("pgdog: all {shards} shards"),
    };
    let mut notes = vec![place];
    if run.place.count(shards) > 1 {
        notes.push(format!("pgdog: {}", merging(&run.merge)));
        if let Some(text) = &run.text {
            let text = String::from_utf8_lossy(text);
            notes.push(format!("pgdog: each shard runs {text}"));
        }
    }
    notes
}

/// A part of a query that is asked in parts.
fn told_of(index: Option<usize>, asked: &Asked) -> String {
    let who = match asked.of {
        Of::EveryShard => "each shard",
        Of::AnyShard => "one shard",
    };
    let first = match index {
        Some(index) => format!("{} is what", gathered_name(index)),
        None => "then".to_owned(),
    };
    let merged = match asked.of {
        Of::EveryShard => format!(" ({})", merging(&asked.plan)),
        Of::AnyShard => String::new(),
    };
    format!("pgdog: {first} {who} runs: {}{merged}", asked.text)
}

/// What becomes of the shards' replies, in words.
fn merging(plan: &MergePlan) -> String {
    let steps = [
        (plan.grouping.is_some(), "groups merged"),
        (!plan.conditions.is_empty(), "HAVING applied"),
        (!plan.order.is_empty(), "ordered"),
        (
            plan.distinct != crate::merge::plan::Distinct::No,
            "duplicates removed",
        ),
        (plan.limit != crate::merge::plan::Limit::NONE, "limited"),
    ];
    let done: Vec<_> = steps
        .iter()
        .filter(|(done, _)| *done)
        .map(|(_, name)| *name)
        .collect();
    match done.is_empty() {
        true => "replies put together".to_owned(),
        false => done.join(", "),
    }
}
