//! Values: where a constant of the tree is among the lifted literals.

use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::NodeEnum;

use super::names;
use crate::sql::keys::{Member, Operand};
use crate::sql::lexer::{Dialect, Kind, Lexer};
use crate::sql::shape::Literal;

/// The lifted literals of the text that is read.
#[derive(Clone, Copy)]
pub(super) struct Literals<'t> {
    pub(super) text: &'t [u8],
    pub(super) lifted: &'t [Literal],
}

impl Literals<'_> {
    /// A node as a value, [`Operand::Other`] if it is none.
    pub(super) fn operand(&self, node: &pb::Node) -> Operand {
        match node.node.as_ref() {
            Some(NodeEnum::AConst(constant)) => self.constant(constant),
            Some(NodeEnum::ParamRef(parameter)) => match u32::try_from(parameter.number) {
                Ok(number) if number > 0 => Operand::Parameter { number, cast: None },
                _ => Operand::Other,
            },
            Some(NodeEnum::SetToDefault(_)) => Operand::Default,
            Some(NodeEnum::TypeCast(cast)) => self.cast(cast, false),
            _ => Operand::Other,
        }
    }

    /// An array's elements, or the array as a whole; none if it is an expression.
    pub(super) fn members(&self, node: &pb::Node) -> Option<Vec<Member>> {
        let whole = |operand| {
            vec![Member {
                operand,
                array: true,
            }]
        };
        match node.node.as_ref()? {
            NodeEnum::AArrayExpr(array) => self.list(&array.elements),
            NodeEnum::TypeCast(cast) => {
                if let Some(NodeEnum::AArrayExpr(array)) = cast
                    .arg
                    .as_ref()
                    .and_then(|argument| argument.node.as_ref())
                {
                    let name = cast_name(cast, true)?;
                    let mut members = self.list(&array.elements)?;
                    for member in &mut members {
                        set_cast(&mut member.operand, &name)?;
                    }
                    return Some(members);
                }
                Some(whole(known(self.cast(cast, true))?))
            }
            NodeEnum::AConst(_) | NodeEnum::ParamRef(_) => Some(whole(known(self.operand(node))?)),
            _ => None,
        }
    }

    /// Values of a list; none if one of them is an expression.
    pub(super) fn list(&self, nodes: &[pb::Node]) -> Option<Vec<Member>> {
        let single = |operand| Member {
            operand,
            array: false,
        };
        nodes
            .iter()
            .map(|node| known(self.operand(node)).map(single))
            .collect()
    }

    fn cast(&self, cast: &pb::TypeCast, array: bool) -> Operand {
        let Some(argument) = &cast.arg else {
            return Operand::Other;
        };
        // A cast of a cast may change the value on its way.
        if matches!(argument.node, Some(NodeEnum::TypeCast(_))) {
            return Operand::Other;
        }
        let mut operand = self.operand(argument);
        match cast_name(cast, array).and_then(|name| set_cast(&mut operand, &name)) {
            Some(()) => operand,
            None => Operand::Other,
        }
    }

    fn constant(&self, constant: &pb::AConst) -> Operand {
        let Some(value) = names::constant_text(constant) else {
            return Operand::Null;
        };
        let number = match constant.val {
            Some(Val::Ival(_) | Val::Fval(_)) => true,
            Some(Val::Sval(_)) => false,
            _ => return Operand::Other,
        };
        let Ok(location) = usize::try_from(constant.location) else {
            return Operand::Other;
        };
        let at = self
            .lifted
            .partition_point(|literal| literal.start < location);
        let found = self.lifted.get(at);
        let lifted = |negative| match u32::try_from(at) {
            Ok(index) => Operand::Literal {
                index,
                negative,
                cast: None,
            },
            Err(_) => Operand::Other,
        };
        match found {
            Some(literal) if literal.start == location => lifted(false),
            // The minus is part of a number, and stands apart from its literal. (The value of `-0` has none.)
            Some(literal) if self.text.get(location) == Some(&b'-') => {
                let signs = self.text.get(location..literal.start).and_then(signs);
                match signs {
                    Some(Signs::OfNext(negative)) => lifted(negative),
                    Some(Signs::OfAnother) => Operand::Constant {
                        value,
                        number,
                        cast: None,
                    },
                    None => Operand::Other,
                }
            }
            _ => Operand::Constant {
                value,
                number,
                cast: None,
            },
        }
    }
}

/// Which number the minus signs are of that a text begins with.
enum Signs {
    /// The one behind the text; is it below zero?
    OfNext(bool),
    /// One in the text.
    OfAnother,
}

/// What is between minus signs and their number, all of which make one constant: `- (-5)`. `None`: something else.
fn signs(text: &[u8]) -> Option<Signs> {
    let mut negative = false;
    for token in Lexer::new(text, Dialect::default()) {
        match token.kind {
            Kind::Operator if token.of(text) == b"-" => negative = !negative,
            Kind::Number => return Some(Signs::OfAnother),
            Kind::Open => {}
            kind if kind.is_blank() => {}
            _ => return None,
        }
    }
    Some(Signs::OfNext(negative))
}

/// Nothing for what is no value.
fn known(operand: Operand) -> Option<Operand> {
    (!matches!(operand, Operand::Other | Operand::Default)).then_some(operand)
}

/// The name of a cast's type, if it has no modifier and is an array or not, as asked.
fn cast_name(cast: &pb::TypeCast, array: bool) -> Option<Box<str>> {
    let name = cast.type_name.as_ref()?;
    let plain = name.typmods.is_empty() && !name.setof && !name.pct_type;
    if !plain || name.array_bounds.is_empty() == array {
        return None;
    }
    let (schema, name) = names::qualified(&name.names);
    matches!(schema.as_deref(), None | Some("pg_catalog")).then_some(name)
}

fn set_cast(operand: &mut Operand, name: &str) -> Option<()> {
    match operand {
        Operand::Literal { cast, .. }
        | Operand::Constant { cast, .. }
        | Operand::Parameter { cast, .. } => {
            if cast.is_some() {
                return None;
            }
            *cast = Some(name.into());
            Some(())
        }
        Operand::Null => Some(()),
        Operand::Default | Operand::Column(_) | Operand::Other => None,
    }
}
