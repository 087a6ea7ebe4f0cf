//! The merged rows of a query as the reply to COPY TO STDOUT.
//!
//! ```text
//!  RowDescription ──► CopyOutResponse [line of names]
//!  DataRow ─────────► CopyData
//!  CommandComplete ─► [trailer] CopyDone CommandComplete
//!  ErrorResponse ───► the same, as of the text of the COPY
//!  whatever else ───► the same
//! ```

use super::{broken, of_server, Merge};
use crate::error::{Error, Fault};
use crate::protocol::backend::{tag, CommandComplete, COPY_DONE};
use crate::protocol::copy::written::{Layout, HEADER, TRAILER};
use crate::protocol::copy::CopyFormat;
use crate::protocol::error_fields::{put_error, Fields};
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};
use crate::protocol::rows::{CopyResponse, DataRow, RowDescription};
use crate::protocol::sqlstate::SqlState;
use crate::protocol::wire::put_message;

/// Writes a query's rows as data of COPY.
#[derive(Clone, Debug)]
pub struct Export {
    layout: Layout,
    /// Characters of the COPY in front of the query.
    before: usize,
    /// For each column: are its values quoted in any case?
    quoted: Vec<bool>,
    /// The binary header, which comes with what follows it.
    due: &'static [u8],
    line: Vec<u8>,
}

impl Merge {
    /// The same merge, whose reply [`Self::export`] writes as that of a COPY. RowDescription must be
    /// [forwarded](super::Description::Forwarded), and the legs' rows be in the format of the data.
    #[must_use]
    pub fn exported(mut self, export: Box<Export>) -> Self {
        self.export = Some(export);
        self
    }

    /// Whole messages that [`Self::feed`] and [`Self::pump`] have given, as the client gets them.
    pub fn export(&mut self, messages: Vec<u8>) -> Vec<u8> {
        let Some(export) = &mut self.export else {
            return messages;
        };
        let mut out = Vec::with_capacity(messages.len());
        if let Err(error) = export.put(&messages, &mut out) {
            put_error(&mut out, &of_server(error));
            self.drop_rows();
        }
        out
    }
}

impl Export {
    /// For rows that nobody has described yet, of a query with so many characters `before` it.
    pub fn new(layout: Layout, before: usize) -> Self {
        Self {
            due: match layout.format {
                CopyFormat::Binary => HEADER,
                CopyFormat::Text { .. } | CopyFormat::Csv { .. } => b"",
            },
            layout,
            before,
            quoted: Vec::new(),
            line: Vec::new(),
        }
    }

    fn is_binary(&self) -> bool {
        self.layout.format == CopyFormat::Binary
    }

    /// Errors: a column that is to be quoted, and is none; messages that are no rows of this format. What came before is written.
    fn put(&mut self, messages: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for frame in Frames::new(messages, BODY_BYTES_MAX) {
            let frame = frame?;
            match frame.tag {
                tag::ROW_DESCRIPTION => self.begin(RowDescription::parse(frame.body)?, out)?,
                tag::DATA_ROW if self.is_binary() => {
                    let due = std::mem::take(&mut self.due);
                    put_data(&[due, frame.body], out);
                }
                tag::DATA_ROW => self.put_row(DataRow::parse(frame.body)?, out)?,
                tag::COMMAND_COMPLETE => {
                    if self.is_binary() {
                        let due = std::mem::take(&mut self.due);
                        put_data(&[due, TRAILER], out);
                    }
                    out.extend_from_slice(&COPY_DONE);
                    let rows = CommandComplete::parse(frame.body)?.rows();
                    let rows = rows.ok_or_else(|| broken("a query that counts no rows"))?;
                    let tag = format!("COPY {rows}");
                    let tag = tag.as_bytes();
                    CommandComplete { tag }.encode(out);
                }
                tag::ERROR_RESPONSE => {
                    Fields::parse(frame.body)?.encode_error_behind(self.before, out);
                }
                _ => out.extend_from_slice(frame.message),
            }
        }
        Ok(())
    }

    fn begin(&mut self, rows: RowDescription<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let format = u8::from(self.is_binary());
        let fields = rows.fields().collect::<Result<Vec<_>, _>>()?;
        if fields.iter().any(|field| field.format != i16::from(format)) {
            return Err(broken("rows that are not in the format of their COPY"));
        }
        let names: Vec<&[u8]> = fields.iter().map(|field| field.name).collect();
        self.quoted = self.layout.quoted_of(&names).map_err(no_column)?;
        let formats = fields.iter().map(|_| format.into());
        CopyResponse::encode(out, tag::COPY_OUT_RESPONSE, format, formats);
        if self.layout.format.has_names() {
            self.line.clear();
            let names = names.iter().map(|name| Some(*name));
            let plain = vec![false; fields.len()];
            self.layout.put_line(names, &plain, &mut self.line);
            put_data(&[&self.line], out);
        }
        Ok(())
    }

    fn put_row(&mut self, row: DataRow<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut whole = row.len() == self.quoted.len();
        let values = row.values().map(|value| {
            whole &= value.is_ok();
            value.unwrap_or_default()
        });
        self.line.clear();
        self.layout.put_line(values, &self.quoted, &mut self.line);
        if !whole {
            return Err(broken("a row that is not as it was described"));
        }
        put_data(&[&self.line], out);
        Ok(())
    }
}

/// Appends CopyData.
fn put_data(parts: &[&[u8]], out: &mut Vec<u8>) {
    put_message(out, tag::COPY_DATA, |out| {
        parts.iter().for_each(|part| out.extend_from_slice(part));
    });
}

fn no_column(name: &str) -> Error {
    let text = format!("column \"{name}\" does not exist");
    Error::error(Fault::Client, SqlState::UNDEFINED_COLUMN, text)
}
