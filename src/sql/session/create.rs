//! What CREATE does to a session, also within EXPLAIN.

use super::super::cursor::Cursor;
use super::super::keyword::Keyword as K;
use super::super::lexer::Kind;
use super::super::statements::{Statement, Traits};
use super::{name_at, Effect, Effects};

/// Temporary objects, tables that are made of a query's rows, and `CREATE TABLE … AS EXECUTE`.
pub(super) fn create(
    statement: &Statement<'_>,
    cursor: &mut Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let mut temporary = statement.traits.has(Traits::TEMPORARY);
    if cursor.eat(K::Or) {
        cursor.eat_word("replace");
    }
    if !cursor.eat(K::Local) {
        cursor.eat(K::Global);
    }
    temporary |= cursor.keyword() == K::Temporary;
    let own = temporary;
    let (mut traits, mut fills) = (Traits::NONE, false);
    let table = matches!(cursor.keyword(), K::Temporary | K::Table)
        || cursor.eat_word("unlogged")
        || cursor.eat_word("materialized");
    while table && !cursor.at_end() {
        if temporary && cursor.eat(K::On) && cursor.eat(K::Commit) && cursor.eat(K::Drop) {
            temporary = false;
        } else if cursor.eat(K::As) {
            if cursor.eat(K::Execute) {
                effects.push(Effect::Execute(name_at(cursor, statement.start)?));
                traits = Traits::OPAQUE;
            } else {
                fills = true;
            }
        } else {
            cursor.advance();
        }
    }
    if temporary {
        effects.push(Effect::Temporary);
        traits.add(Traits::TEMPORARY);
    } else if fills && !own {
        effects.push(Effect::MakesTable);
    }
    Some(traits)
}

/// `EXPLAIN … EXECUTE name`. With ANALYZE, what is explained also runs.
pub(super) fn explain(
    statement: &Statement<'_>,
    cursor: &mut Cursor<'_>,
    effects: &mut Effects,
) -> Option<Traits> {
    let mut depth = 0_usize;
    loop {
        match (cursor.kind(), cursor.keyword()) {
            (Some(Kind::Open), _) => depth += 1,
            (Some(Kind::Close), _) => depth = depth.saturating_sub(1),
            (_, K::Analyze) => {}
            (Some(Kind::Word), K::Unknown) if cursor.bytes().eq_ignore_ascii_case(b"verbose") => {}
            _ if depth > 0 && !cursor.at_end() => {}
            (_, K::Execute) => {
                cursor.advance();
                effects.push(Effect::Execute(name_at(cursor, statement.start)?));
                return Some(Traits::OPAQUE);
            }
            (_, K::Create) => {
                cursor.advance();
                return create(statement, cursor, effects);
            }
            _ => {
                if statement.traits.has(Traits::TEMPORARY) {
                    effects.push(Effect::Temporary);
                }
                return Some(Traits::NONE);
            }
        }
        cursor.advance();
    }
}
