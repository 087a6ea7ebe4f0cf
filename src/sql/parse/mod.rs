//! PostgreSQL's own parser, and what is read from its tree. The only folder that names the library.
//!
//! A tree is large and short-lived: it is made, read and dropped within one call, on a stack that is large enough
//! for it. `walk` knows every kind of node that a query can have; `facts` and `utility` make a [`Statement`] of it,
//! `levels`, `changes`, `conditions` and `operands` its keys.

pub mod across;
mod changes;
mod conditions;
mod facts;
mod levels;
mod names;
mod operands;
mod utility;
mod walk;

use pg_query::ParserOptions;

use self::operands::Literals;
use super::lexer::Dialect;
use super::shape::Literal;
use super::statement::{Statement, Unparsed};

/// Stack for what does not nest: the parser's tables, its error handling.
const STACK_BYTES: usize = 256 * 1024;
/// Stack for one more level. Without optimisation prost's reader of a node takes 41 kB, as it has room for each of 270
/// kinds.
const STACK_BYTES_PER_LEVEL: usize = 48 * 1024;
/// The parser refuses trees of more than 10,000 messages, every other of which is a node, and more than 2 MB of its own
/// stack: this is enough for all others. It is address space; only what is used takes memory.
const STACK_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The statements of a text, empty ones left out.
///
/// `lifted`: literals that are not part of its shape. `levels`: no tree of this text is deeper; it only decides how much
/// stack is asked for.
///
/// Errors: [`Unparsed`]; never a panic or an overflow, whatever the text.
pub(super) fn parse(
    text: &[u8],
    dialect: Dialect,
    levels: usize,
    lifted: &[Literal],
) -> Result<Vec<Statement>, Unparsed> {
    let tree = |tree: pg_query::ParseResult| {
        let statements = tree.protobuf.stmts.iter();
        let nodes = statements.filter_map(|raw| raw.stmt.as_ref()?.node.as_ref());
        let literals = Literals { text, lifted };
        nodes
            .map(|node| facts::statement(node.to_ref(), literals))
            .collect()
    };
    with_tree(text, dialect, levels, tree)
}

/// Gives `read` the tree of a text, on a stack that is large enough to walk and drop it.
fn with_tree<T>(
    text: &[u8],
    dialect: Dialect,
    levels: usize,
    read: impl FnOnce(pg_query::ParseResult) -> T,
) -> Result<T, Unparsed> {
    if dialect.overlapping && !text.is_ascii() {
        return Err(Unparsed::Encoding);
    }
    let text = std::str::from_utf8(text).map_err(|_| Unparsed::Encoding)?;
    let options = match dialect.backslashes {
        true => ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS,
        false => ParserOptions::DEFAULT,
    };
    let stack = levels
        .saturating_mul(STACK_BYTES_PER_LEVEL)
        .saturating_add(STACK_BYTES)
        .min(STACK_BYTES_MAX);
    if stacker::remaining_stack().is_none_or(|left| left < stack) {
        // The parser takes the limit of its depth from the thread's own stack. On another one it keeps what it had.
        let _ = pg_query::parse("", options);
    }
    stacker::maybe_grow(stack, stack, || {
        pg_query::parse(text, options).map(read).map_err(unparsed)
    })
}

fn unparsed(error: pg_query::Error) -> Unparsed {
    match error {
        pg_query::Error::Parse(message)
            if message.contains("stack depth limit")
                || message.contains("nested too deeply")
                || message.contains("memory exhausted") =>
        {
            Unparsed::TooDeep
        }
        pg_query::Error::Parse(message) => Unparsed::Syntax(message.into()),
        other => Unparsed::Syntax(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests;
