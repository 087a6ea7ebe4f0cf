//! The children of a node, for every kind that can stand within a query.
//!
//! Who reads a tree matches the kinds that it cares about and passes the others here. A kind that is not known
//! here may hide anything: the reader must assume the worst.

use pg_query::protobuf as pb;
use pg_query::NodeRef;

/// Calls `each` with every child of a node, in the order of the text as far as the tree tells, a WITH clause
/// first. False: this kind is not known, no child was visited.
pub(super) fn children<'t>(node: NodeRef<'t>, each: &mut dyn FnMut(NodeRef<'t>)) -> bool {
    use NodeRef as N;

    macro_rules! visit {
        ($node:ident: $($field:ident),*) => {{ $( $node.$field.visit(each); )* }};
    }

    match node {
        // Statements and their parts.
        N::SelectStmt(n) => {
            visit!(n: with_clause, larg, rarg, distinct_clause, target_list, into_clause, from_clause,
            where_clause, group_clause, having_clause, window_clause, values_lists, sort_clause, limit_offset,
            limit_count, locking_clause)
        }
        N::InsertStmt(n) => {
            visit!(n: with_clause, relation, cols, select_stmt, on_conflict_clause, returning_clause);
        }
        N::UpdateStmt(n) => {
            visit!(n: with_clause, relation, target_list, from_clause, where_clause, returning_clause);
        }
        N::DeleteStmt(n) => {
            visit!(n: with_clause, relation, using_clause, where_clause, returning_clause);
        }
        N::MergeStmt(n) => {
            visit!(n: with_clause, relation, source_relation, join_condition, merge_when_clauses,
            returning_clause)
        }
        N::MergeWhenClause(n) => visit!(n: condition, target_list, values),
        N::WithClause(n) => visit!(n: ctes),
        N::CommonTableExpr(n) => visit!(n: ctequery, search_clause, cycle_clause),
        N::CtecycleClause(n) => visit!(n: cycle_mark_value, cycle_mark_default),
        N::OnConflictClause(n) => visit!(n: infer, target_list, where_clause),
        N::InferClause(n) => visit!(n: index_elems, where_clause),
        N::IndexElem(n) => visit!(n: expr),
        N::ReturningClause(n) => visit!(n: exprs),
        N::IntoClause(n) => visit!(n: rel),
        N::LockingClause(n) => visit!(n: locked_rels),
        N::ResTarget(n) => visit!(n: indirection, val),
        N::MultiAssignRef(n) => visit!(n: source),
        N::SortBy(n) => visit!(n: node),
        N::GroupingSet(n) => visit!(n: content),
        N::WindowDef(n) => visit!(n: partition_clause, order_clause, start_offset, end_offset),
        // What stands in FROM.
        N::JoinExpr(n) => visit!(n: larg, rarg, quals),
        N::RangeSubselect(n) => visit!(n: subquery),
        N::RangeFunction(n) => visit!(n: functions),
        N::RangeTableSample(n) => visit!(n: relation, args, repeatable),
        N::RangeTableFunc(n) => visit!(n: docexpr, rowexpr, namespaces, columns),
        N::RangeTableFuncCol(n) => visit!(n: colexpr, coldefexpr),
        N::JsonTable(n) => visit!(n: context_item, pathspec, passing, columns, on_error),
        N::JsonTableColumn(n) => visit!(n: pathspec, columns, on_empty, on_error),
        N::JsonTablePathSpec(n) => visit!(n: string),
        // Expressions.
        N::AExpr(n) => visit!(n: lexpr, rexpr),
        N::BoolExpr(n) => visit!(n: args),
        N::NullTest(n) => visit!(n: arg),
        N::BooleanTest(n) => visit!(n: arg),
        N::FuncCall(n) => visit!(n: args, agg_order, agg_filter, over),
        N::NamedArgExpr(n) => visit!(n: arg),
        N::TypeCast(n) => visit!(n: arg, type_name),
        N::TypeName(n) => visit!(n: typmods),
        N::CollateClause(n) => visit!(n: arg),
        N::SubLink(n) => visit!(n: testexpr, subselect),
        N::CaseExpr(n) => visit!(n: arg, args, defresult),
        N::CaseWhen(n) => visit!(n: expr, result),
        N::CoalesceExpr(n) => visit!(n: args),
        N::MinMaxExpr(n) => visit!(n: args),
        N::RowExpr(n) => visit!(n: args),
        N::AArrayExpr(n) => visit!(n: elements),
        N::AIndirection(n) => visit!(n: arg, indirection),
        N::AIndices(n) => visit!(n: lidx, uidx),
        N::GroupingFunc(n) => visit!(n: args),
        N::XmlExpr(n) => visit!(n: named_args, args),
        N::XmlSerialize(n) => visit!(n: expr),
        N::JsonFuncExpr(n) => {
            visit!(n: context_item, pathspec, passing, on_empty, on_error);
        }
        N::JsonValueExpr(n) => visit!(n: raw_expr, formatted_expr),
        N::JsonArgument(n) => visit!(n: val),
        N::JsonBehavior(n) => visit!(n: expr),
        N::JsonKeyValue(n) => visit!(n: key, value),
        N::JsonObjectConstructor(n) => visit!(n: exprs),
        N::JsonArrayConstructor(n) => visit!(n: exprs),
        N::JsonArrayQueryConstructor(n) => visit!(n: query),
        N::JsonAggConstructor(n) => visit!(n: agg_filter, agg_order, over),
        N::JsonObjectAgg(n) => visit!(n: constructor, arg),
        N::JsonArrayAgg(n) => visit!(n: constructor, arg),
        N::JsonIsPredicate(n) => visit!(n: expr),
        N::JsonParseExpr(n) => visit!(n: expr),
        N::JsonScalarExpr(n) => visit!(n: expr),
        N::JsonSerializeExpr(n) => visit!(n: expr),
        N::List(n) => visit!(n: items),
        // What has no children that matter.
        N::RangeVar(_)
        | N::CtesearchClause(_)
        | N::ColumnRef(_)
        | N::ParamRef(_)
        | N::AConst(_)
        | N::AStar(_)
        | N::SetToDefault(_)
        | N::CurrentOfExpr(_)
        | N::SqlvalueFunction(_)
        | N::MergeSupportFunc(_)
        | N::String(_)
        | N::Integer(_) => {}
        _ => return false,
    }
    true
}

/// A field that holds children: one, many or none.
trait Field {
    fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>));
}

impl Field for pb::Node {
    fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>)) {
        if let Some(node) = &self.node {
            each(node.to_ref());
        }
    }
}

impl Field for Vec<pb::Node> {
    fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>)) {
        for node in self {
            node.visit(each);
        }
    }
}

impl<F: Field> Field for Option<F> {
    fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>)) {
        if let Some(field) = self {
            field.visit(each);
        }
    }
}

impl<F: Field> Field for Box<F> {
    fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>)) {
        (**self).visit(each);
    }
}

/// Children that the tree holds by their own type.
macro_rules! fields {
    ($($kind:ident = $variant:ident),* $(,)?) => { $(
        impl Field for pb::$kind {
            fn visit<'t>(&'t self, each: &mut dyn FnMut(NodeRef<'t>)) {
                each(NodeRef::$variant(self));
            }
        }
    )* };
}

fields! {
    SelectStmt = SelectStmt, WithClause = WithClause, RangeVar = RangeVar, IntoClause = IntoClause,
    OnConflictClause = OnConflictClause, InferClause = InferClause, ReturningClause = ReturningClause,
    CteSearchClause = CtesearchClause, CteCycleClause = CtecycleClause, WindowDef = WindowDef, TypeName = TypeName,
    JsonValueExpr = JsonValueExpr, JsonBehavior = JsonBehavior, JsonKeyValue = JsonKeyValue,
    JsonTablePathSpec = JsonTablePathSpec, JsonAggConstructor = JsonAggConstructor,
}
