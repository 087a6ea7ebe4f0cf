//! Functions of PostgreSQL whose result over shards is known: those that see one row, and aggregates.
//!
//! A function that is not listed may be an aggregate of a user, or read tables: nothing is known of it, unless the catalogue says
//! that it is immutable.

use pg_query::protobuf::FuncCall;

use super::nodes::{function_name, words};
use super::Catalogue;

/// What a call is, as far as merging is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The same result for the same arguments.
    Scalar,
    /// Another result each time, which one server would not foresee either.
    Volatile,
    /// The time of the statement, which differs a little from server to server.
    Clock,
    /// Several rows for one, made of its arguments.
    Rows,
    /// One result for many rows, whatever their order.
    Aggregate,
    /// One result for many rows, that depends on their order or cannot be put together from parts.
    Whole,
}

/// What is called; `None` when nothing is known.
pub(super) fn called(call: &FuncCall, catalogue: &dyn Catalogue) -> Option<Known> {
    let immutable = || match *words(&call.funcname) {
        [name] => catalogue.is_immutable(None, name),
        [schema, name] => catalogue.is_immutable(Some(schema), name),
        _ => false,
    };
    let found = function_name(call).and_then(known);
    found.or_else(|| immutable().then_some(Known::Scalar))
}

/// What PostgreSQL's function of this name is; `None` when nothing is known.
pub(super) fn known(name: &str) -> Option<Known> {
    let lists = [
        (SCALAR, Known::Scalar),
        (VOLATILE, Known::Volatile),
        (CLOCK, Known::Clock),
        (ROWS, Known::Rows),
        (AGGREGATES, Known::Aggregate),
        (WHOLES, Known::Whole),
    ];
    let mut found = lists
        .into_iter()
        .filter(|(list, _)| list.split_ascii_whitespace().any(|word| word == name));
    found.next().map(|(_, known)| known)
}

const VOLATILE: &str =
    "random gen_random_uuid uuidv4 uuidv7 clock_timestamp timeofday random_normal";

const CLOCK: &str = "now transaction_timestamp statement_timestamp age";

const ROWS: &str = "unnest generate_series generate_subscripts regexp_matches regexp_split_to_table string_to_table
    json_array_elements json_array_elements_text json_each json_each_text json_object_keys
    jsonb_array_elements jsonb_array_elements_text jsonb_each jsonb_each_text jsonb_object_keys jsonb_path_query";

const AGGREGATES: &str =
    "count sum avg min max bool_and bool_or every bit_and bit_or bit_xor any_value
    stddev stddev_samp stddev_pop variance var_samp var_pop";

const WHOLES: &str = "array_agg string_agg json_agg jsonb_agg json_object_agg jsonb_object_agg xmlagg range_agg
    range_intersect_agg mode percentile_cont percentile_disc corr covar_pop covar_samp regr_avgx regr_avgy regr_count
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number rank dense_rank percent_rank cume_dist ntile
    lag lead first_value last_value nth_value json_agg_strict jsonb_agg_strict json_object_agg_strict
    json_object_agg_unique json_object_agg_unique_strict jsonb_object_agg_strict jsonb_object_agg_unique
    jsonb_object_agg_unique_strict";

const SCALAR: &str = "abbrev abs acos acosd acosh area array_append array_cat array_dims array_fill array_length
    array_lower array_ndims array_position array_positions array_prepend array_remove array_replace array_to_json
    array_to_string array_upper ascii asin asind asinh atan atan2 atan2d atand atanh bit_count bit_length box broadcast
    btrim cardinality cbrt ceil ceiling center char_length character_length chr circle concat concat_ws convert
    convert_from convert_to cos cosd cosh cot cotd date date_add date_bin date_part date_subtract date_trunc daterange
    decode degrees diagonal diameter div encode erf erfc exp extract factorial family float4 float8 floor format gamma gcd
    get_bit get_byte hashint4 hashint8 hashtext height host hostmask initcap int2 int4 int4range int8 int8range isempty
    isfinite json_array_length json_build_array json_build_object json_extract_path json_extract_path_text json_object
    json_strip_nulls json_typeof jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path
    jsonb_extract_path_text jsonb_insert jsonb_object jsonb_path_exists jsonb_path_match jsonb_path_query_array
    jsonb_path_query_first jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_typeof justify_days justify_hours
    justify_interval lcm left length like_escape line ln log log10 lower lower_inc lower_inf lpad lseg ltrim make_date
    make_interval make_time make_timestamp masklen md5 min_scale mod netmask network normalize npoints num_nonnulls
    num_nulls numeric numnode numrange octet_length overlaps overlay parse_ident phraseto_tsquery pi plainto_tsquery point
    polygon position pow power querytree quote_ident quote_literal quote_nullable radians radius range_merge regexp_count
    regexp_instr regexp_like regexp_match regexp_replace regexp_split_to_array regexp_substr repeat replace reverse right
    round row_to_json rpad rtrim scale set_bit set_byte setweight sha224 sha256 sha384 sha512 sign sin sind sinh slope
    split_part sqrt starts_with string_to_array strip strpos substr substring tan tand tanh text timezone to_ascii to_char
    to_date to_hex to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector translate trim_array trim_scale trunc
    ts_headline ts_rank ts_rank_cd tsrange tstzrange unistr upper upper_inc upper_inf varchar websearch_to_tsquery width
    width_bucket";
