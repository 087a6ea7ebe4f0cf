//! To which shards a COPY goes, and whose rows are whose.

use crate::error::{Error, Fault};
use crate::merge::{refused, MergePlan};
use crate::protocol::copy::CopyFormat;
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate::SqlState;
use crate::routing::asking::copied;
use crate::routing::copy::{
    copy_format, copy_key, copy_layout, CopyContext, Copying, Rows, Split, Written,
};
use crate::routing::values::type_oid;
use crate::routing::verdict::{Place, Run};
use crate::sharding::schema::{Column, Table, Width};
use crate::sharding::tables::TableKind as Spread;
use crate::sharding::ShardingTables;
use crate::sql::copied::{divide, Copied};
use crate::sql::lexer::{self, Dialect, Lexer};
use crate::sql::quote;
use crate::sql::statement::{Copy, Kind, Statement};

use super::super::Session;
use super::route::{these, Source};
use super::view::View;

impl Session {
    /// COPY of a table: all of its rows, or each to the shard of its key.
    pub(super) fn copy_table(
        &self,
        statement: &Statement,
        copy: &Copy,
        source: &Source<'_>,
        (tables, view): (&ShardingTables, &View<'_>),
    ) -> Result<Run, Error> {
        let Some(named) = statement.tables.first() else {
            return Err(refused("this COPY"));
        };
        let known = view.table(named.schema.as_deref(), &named.name);
        if known.is_some_and(Table::is_view) {
            return Err(refused("COPY of a view"));
        }
        if let Some(why) = known.and_then(Table::opaque) {
            return Err(refused(&why.refused(&named.name)));
        }
        let schema = known.map(|table| &*table.schema);
        let schema = schema.or(named.schema.as_deref());
        let has_column = |column: &str| match known {
            Some(table) => table.column(column).is_some(),
            None => copy.columns.iter().any(|name| **name == *column),
        };
        let (place, sharded) = match tables.table(schema, &named.name, has_column) {
            Spread::Sharded(column) => (these(tables.all()), Some(column)),
            Spread::InSchema(shards) if copy.from => (these(shards), None),
            Spread::InSchema(shards) => {
                let first = shards.iter().take(1).map(|shard| shard as usize);
                (Place::These(first.collect()), None)
            }
            Spread::Omnisharded { .. } if copy.from => (these(tables.all()), None),
            Spread::Omnisharded { .. } => (Place::Any, None),
        };
        if copy.from && sharded.is_none() && place.count(self.cluster.shards()) > 1 {
            if view.facts.are_unknown() {
                return Err(view.facts.not_known("which defaults a table has"));
            }
            let columns = known.map_or(&[][..], |table| &table.columns);
            let text = (source.part, source.dialect);
            let defined = self.sharded.as_deref().map(|sharded| &sharded.defined);
            let made = defined.map_or(&[][..], |defined| defined.defaults(&named.name));
            copied(
                statement,
                copy,
                text,
                (columns, made),
                &view.facts.functions,
            )?;
        }
        let Some(column) = sharded else {
            return Ok(Run {
                together: copy.from,
                copying: copying(statement),
                ..Run::at(place)
            });
        };
        let stored = known.map(|table| {
            let stored = table.columns.iter().filter(|column| !column.generated);
            stored.map(|column| column.name.clone()).collect::<Vec<_>>()
        });
        let key = known.and_then(|table| table.column(&column.column));
        let encoding = self.reported("client_encoding");
        let context = CopyContext {
            client_encoding: &String::from_utf8_lossy(&encoding),
            server_encoding: &String::from_utf8_lossy(&view.facts.text.encoding),
            server_version: self.server_version()?,
            columns: stored.as_deref(),
            key_oid: key.map_or(0, type_of),
            key_width: key.map_or(Width::Unknown, |column| column.width),
        };
        let format = copy_format(copy, context)?;
        if !copy.from {
            return Ok(Run {
                merge: MergePlan::sharded_write(),
                copying: Some(Copying::Out {
                    names: format.has_names(),
                }),
                ..Run::at(place)
            });
        }
        let split = Split {
            key: copy_key(copy, context, column)?,
            format,
            column: column.clone(),
        };
        let text = match &stored {
            Some(columns) if copy.columns.is_empty() => {
                let text = with_columns(source.part, source.dialect, columns);
                Some(
                    text.ok_or_else(|| refused("this COPY"))?
                        .into_bytes()
                        .into(),
                )
            }
            _ => None,
        };
        Ok(Run {
            together: true,
            text,
            copying: Some(Copying::In(Rows::Split(Box::new(split)))),
            ..Run::at(place)
        })
    }

    /// `COPY (query) TO`: where the query goes. Over several shards servers copy what each has, or, where that is to be merged,
    /// run the query.
    pub(super) fn copy_query(
        &mut self,
        copy: &Copy,
        query: &Statement,
        source: &Source<'_>,
    ) -> Result<Run, Error> {
        let parts = divide(source.part, source.dialect);
        let parts = parts.ok_or_else(|| refused("this COPY"))?;
        let of_query = Source {
            part: parts.query,
            ..*source
        };
        let run = self.route_query(query, &of_query)?;
        if run.text.is_some() || run.gathering.is_some() {
            no_values(source.bind)?;
            return self.copy_rows(copy, query, parts, run);
        }
        // What is asked for first stands in the text of all of it then.
        let run = match run.asking {
            Some(_) => self.route_query(query, source)?,
            None => run,
        };
        let whole = run.text.is_none() && run.parts.is_empty() && run.gathering.is_none();
        let plain = run.moving.is_none() && run.echo.is_none();
        if run.place.count(self.cluster.shards()) != 1 || !(whole && plain) {
            return Err(refused("COPY of a change"));
        }
        Ok(Run {
            copying: Some(Copying::Out { names: false }),
            ..run
        })
    }

    /// COPY of a SELECT that is planned like this.
    fn copy_rows(
        &self,
        copy: &Copy,
        query: &Statement,
        parts: Copied<'_>,
        run: Run,
    ) -> Result<Run, Error> {
        let encoding = self.reported("client_encoding");
        let context = CopyContext {
            client_encoding: &String::from_utf8_lossy(&encoding),
            server_encoding: "",
            server_version: self.server_version()?,
            columns: None,
            key_oid: 0,
            key_width: Width::Unknown,
        };
        let format = copy_format(copy, context)?;
        // What binary rows consist of is only told where they are rows of a query, and only of that a server says what is wrong with it.
        let passes = format != CopyFormat::Binary && !run.unchecked;
        let passes = passes && run.merge == MergePlan::concatenate();
        if let Some(text) = run.text.as_deref().filter(|_| passes) {
            return Ok(Run {
                text: Some([parts.head, text, parts.tail].concat().into()),
                merge: MergePlan::sharded_write(),
                copying: Some(Copying::Out {
                    names: format.has_names(),
                }),
                ..run
            });
        }
        let layout = copy_layout(copy, format, context)?;
        let written = Written::new(parts.head, parts.query, query.parameters, layout);
        Ok(Run {
            copying: Some(Copying::Written(Box::new(written))),
            ..run
        })
    }

    /// As `server_version_num` has it, without the minor version. Errors: no server has told.
    fn server_version(&self) -> Result<u32, Error> {
        let reported = self.reported("server_version");
        let major = reported.split(|byte| !byte.is_ascii_digit()).next();
        let major = major.map(String::from_utf8_lossy);
        let major: Option<u32> = major.and_then(|major| major.parse().ok());
        let number = major.and_then(|major| major.checked_mul(10_000));
        number.ok_or_else(|| refused("COPY of servers whose version is not known"))
    }
}

/// Errors: there are values, as a server says it of a COPY.
fn no_values(bind: Option<&Bind<'_>>) -> Result<(), Error> {
    let values = bind.and_then(|bind| Some((bind.arguments().ok()?.len(), bind.statement)));
    let Some((count @ 1.., statement)) = values else {
        return Ok(());
    };
    let statement = String::from_utf8_lossy(statement);
    let text = format!(
        "bind message supplies {count} parameters, but prepared statement \"{statement}\" requires 0"
    );
    let code = SqlState::PROTOCOL_VIOLATION;
    Err(Error::error(Fault::Client, code, text))
}

/// The same COPY with its columns named: servers read data as they are read here, even if the table has just been changed
/// elsewhere.
fn with_columns(part: &[u8], dialect: Dialect, columns: &[Box<str>]) -> Option<String> {
    let part = std::str::from_utf8(part).ok()?;
    let mut lexer = Lexer::new(part.as_bytes(), dialect);
    // A reserved word: no name without quotes can be it.
    let from = std::iter::from_fn(|| lexer.next_solid()).find(|token| {
        token.kind == lexer::Kind::Word && token.of(part.as_bytes()).eq_ignore_ascii_case(b"from")
    })?;
    let (head, tail) = part.split_at_checked(from.start)?;
    let names: Vec<_> = columns.iter().map(|name| quote::name(name)).collect();
    Some(format!("{head}({}) {tail}", names.join(", ")))
}

/// The type whose values a column has: of a domain what that is of.
fn type_of(column: &Column) -> u32 {
    match type_oid(&column.of_type) {
        0 => column.type_oid,
        known => known,
    }
}

/// What a COPY moves that is for one server, or whose rows are for all.
pub(super) fn copying(statement: &Statement) -> Option<Copying> {
    match &statement.kind {
        Kind::Copy(copy) if copy.from && copy.stream => Some(Copying::In(Rows::All)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_in_front_of_from() {
        let columns: [Box<str>; 2] = ["id".into(), "a \"b\"".into()];
        for (part, expected) in [
            (
                "copy t from stdin",
                Some("copy t (\"id\", \"a \"\"b\"\"\") from stdin"),
            ),
            (
                "/* from */ COPY \"from\".t/**/FROM STDIN (DELIMITER '|')",
                Some(
                    "/* from */ COPY \"from\".t/**/(\"id\", \"a \"\"b\"\"\") FROM STDIN (DELIMITER '|')",
                ),
            ),
            ("COPY t", None),
        ] {
            let found = with_columns(part.as_bytes(), Dialect::default(), &columns);
            assert_eq!(found.as_deref(), expected);
        }
    }
}
