//! Messages of the extended protocol for a server, made of a client's statement and Bind.

use crate::protocol::frontend::{Bind, Execute, Parse, Target, SYNC};
use crate::routing::verdict::Run;
use crate::sql::insert_rows::InsertPart;

/// Parse of a definition, with another text in place of its own.
pub(super) fn put_parse(definition: &[u8], instead: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(text) = instead else {
        return Parse::encode_content(out, b"", definition);
    };
    // The types of parameters follow the text.
    let types = memchr::memchr(0, definition).unwrap_or(definition.len());
    let types = definition.get(types..).unwrap_or_default();
    Parse::encode_content(out, b"", &[text, types].concat());
}

/// Parse and Bind of a part of a SELECT.
pub(super) fn put_select(
    text: &[u8],
    run: &Run,
    bind: &Bind<'_>,
    portal: &[u8],
    out: &mut Vec<u8>,
) {
    let types = run.part.iter().flat_map(|part| part.types.iter().copied());
    Parse::encode(out, b"", text, types);
    match (&run.part, bind.arguments()) {
        (Some(part), Ok(arguments)) if part.gathered => {
            let formats = arguments.formats.iter();
            Bind::encode(out, portal, b"", formats, arguments.values(), []);
        }
        _ => put_bind(bind, portal, run.merge.hidden, out),
    }
}

/// Bind for the unnamed statement. A format for each column is one for hidden columns, too: binary, which no
/// setting changes.
pub(super) fn put_bind(bind: &Bind<'_>, portal: &[u8], hidden: usize, out: &mut Vec<u8>) {
    match bind.arguments() {
        Ok(arguments) if hidden > 0 && arguments.result_formats.len() > 1 => {
            let hidden = std::iter::repeat_n(1, hidden);
            let formats = arguments.result_formats.iter().chain(hidden);
            Bind::encode(
                out,
                portal,
                b"",
                arguments.formats.iter(),
                arguments.values(),
                formats,
            );
        }
        _ => bind.encode_for(out, portal),
    }
}

/// Parse and Bind of a part, with those parameters that it has.
pub(super) fn put_part(
    part: &InsertPart,
    definition: &[u8],
    bind: &Bind<'_>,
    shown: bool,
    out: &mut Vec<u8>,
) {
    let declared: Vec<u32> = match Parse::of_content(definition) {
        Ok(parse) => parse.types.iter().collect(),
        Err(_) => Vec::new(),
    };
    let kept = || {
        let numbers = part.parameters.iter();
        numbers.map(|number| usize::from(*number).saturating_sub(1))
    };
    let types = kept().map(|at| declared.get(at).copied().unwrap_or_default());
    Parse::encode(out, b"", &part.text, types);
    if let Ok(arguments) = bind.arguments() {
        let values: Vec<_> = arguments.values().collect();
        let result_formats = arguments.result_formats.iter().filter(|_| shown);
        Bind::encode(
            out,
            b"",
            b"",
            kept().map(|at| arguments.formats.of(at).unwrap_or_default()),
            kept().map(|at| values.get(at).copied().flatten()),
            result_formats,
        );
    }
}

/// Describe of a portal, Execute unless it is only opened, and Sync.
pub(super) fn put_execute(out: &mut Vec<u8>, portal: &[u8], rows_max: Option<i32>) {
    Target::Portal(portal).encode_describe(out);
    if let Some(rows_max) = rows_max {
        Execute { portal, rows_max }.encode(out);
    }
    out.extend_from_slice(&SYNC);
}
