use std::sync::Arc;

use super::*;
use crate::{Key, List, ListKind, Map};

#[test]
fn operators_follow_the_language() {
    assert_true(
        &[
            "1 + 2 * 3 == 7 && 7 / 2 == 3 && -7 % 3 == -1 && 2u * 3u == 6u",
            "1.5 + 1.5 == 3.0 && 1 == 1.0 && 1u == 1 && 1 < 1.5 && 2u > 1",
            "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
            "duration('1h') + duration('30m') == duration('90m')",
            "timestamp('2023-01-01T00:00:00Z') + duration('24h') == timestamp('2023-01-02T00:00:00Z')",
            "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')",
            "'a' < 'b' && b'a' < b'b' && false < true && [1, 2][1] == 2 && {'a': 1}['a'] == 1",
            "1 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1} && 1.0 in [1] && 1u in {1: 2}",
            "{1: 'a'}[1u] == 'a' && {1: 'a'}[1.0] == 'a' && [1, 2][1u] == 2",
            "(true ? 1 : 2) == 1 && !false && -(-1) == 1",
            "true || 1 / 0 == 1",
            "1 / 0 == 1 || true",
            "!(false && 1 / 0 == 1) && !(1 / 0 == 1 && false)",
            "has({'a': 1}.a) && !has({'a': 1}.b)",
            "null == null && [null] == [null] && {'a': [1]} == {'a': [1.0]}",
            "!(double('NaN') == double('NaN')) && double('NaN') != 1.0",
            "type(1) == int && type('a') == string && type([]) == list && type(type(1)) == type",
            "type(timestamp('2023-01-01T00:00:00Z')) == google.protobuf.Timestamp",
        ],
        &[],
    );
    assert_errors(
        &[
            ("9223372036854775807 + 1", "integer overflow"),
            ("0u - 1u", "unsigned integer overflow"),
            ("1 / 0", "division by zero"),
            ("1 % 0", "modulus by zero"),
            ("[1][1]", "index out of bounds: 1"),
            ("{'a': 1}['b']", "no such key: b"),
            ("{'a': 1}.b", "no such key: b"),
            ("dyn(1) + dyn('a')", "no such overload"),
            ("double('NaN') < 1.0", "NaN values cannot be ordered"),
            ("{'a': 1, 'a': 2}", "repeated key"),
            ("1 / 0 == 1 || false", "division by zero"),
        ],
        &[],
    );
    assert_eq!(
        program("other == 1", &["self"]).unwrap_err(),
        "undeclared reference to 'other'"
    );
    assert_eq!(
        program("nosuch(1)", &[]).unwrap_err(),
        "undeclared reference to 'nosuch'"
    );
}

#[test]
fn conversions_between_types() {
    assert_true(
        &[
            "int('12') == 12 && int(1.9) == 1 && int(-1.9) == -1 && int(3u) == 3",
            "uint('12') == 12u && uint(1.9) == 1u && uint(3) == 3u",
            "double('1.5') == 1.5 && double(2) == 2.0 && double('-Infinity') < 0.0",
            "string(1) == '1' && string(1.5) == '1.5' && string(true) == 'true' && string(2u) == '2'",
            "string(1e7) == '1e+07' && string(0.00001) == '1e-05' && string(100000.0) == '100000'",
            "string(b'abc') == 'abc' && bytes('abc') == b'abc' && bool('true') && !bool('F')",
            "string(duration('1h')) == '3600s' && string(duration('1.5s')) == '1.5s'",
            "string(timestamp('2023-01-02T03:04:05.678Z')) == '2023-01-02T03:04:05.678Z'",
            "string(timestamp('2023-01-02T03:04:05+02:00')) == '2023-01-02T03:04:05+02:00'",
            "int(timestamp('1970-01-01T00:01:00Z')) == 60 && timestamp(60) == timestamp('1970-01-01T00:01:00Z')",
            "size('a\u{e9}') == 2 && 'abc'.size() == 3 && size(b'abc') == 3 && size([1]) == 1 && size({}) == 0",
            "duration('-1.5h') == duration('-90m') && duration('1us') < duration('1ms')",
        ],
        &[],
    );
    assert_errors(
        &[
            ("int('a')", "type conversion error from 'string' to 'int'"),
            ("int(9223372036854775808u)", "integer overflow"),
            ("uint(-1)", "unsigned integer overflow"),
            ("bool('maybe')", "type conversion error"),
            (
                "duration('1')",
                "type conversion error from 'string' to 'google.protobuf.Duration'",
            ),
            ("timestamp('2023-01-02')", "type conversion error"),
            ("string(b'\\xff')", "invalid UTF-8"),
        ],
        &[],
    );
}

#[test]
fn parts_of_times() {
    assert_true(
        &[
            "timestamp('2023-02-03T04:05:06.789Z').getFullYear() == 2023",
            "timestamp('2023-02-03T04:05:06Z').getMonth() == 1",
            "timestamp('2023-02-03T04:05:06Z').getDayOfMonth() == 2",
            "timestamp('2023-02-03T04:05:06Z').getDate() == 3",
            "timestamp('2023-02-03T04:05:06Z').getDayOfYear() == 33",
            "timestamp('2023-02-03T04:05:06Z').getDayOfWeek() == 5",
            "timestamp('2023-02-03T04:05:06Z').getHours() == 4",
            "timestamp('2023-02-03T04:05:06Z').getMinutes() == 5",
            "timestamp('2023-02-03T04:05:06Z').getSeconds() == 6",
            "timestamp('2023-02-03T04:05:06.789Z').getMilliseconds() == 789",
            "timestamp('2023-02-03T04:05:06+02:00').getHours() == 2",
            "timestamp('2023-02-03T04:05:06Z').getHours('Europe/Berlin') == 5",
            "timestamp('2023-02-03T04:05:06Z').getHours('-08:30') == 19",
            "timestamp('2023-02-03T04:05:06Z').getMinutes('-08:30') == 35",
            "duration('90m').getHours() == 1 && duration('90m').getMinutes() == 90",
            "duration('90s').getSeconds() == 90 && duration('1s').getMilliseconds() == 1000",
        ],
        &[],
    );
    assert_errors(
        &[(
            "timestamp('2023-02-03T04:05:06Z').getHours('Nowhere/City')",
            "unknown time zone",
        )],
        &[],
    );
}

#[test]
fn loops_over_one_and_two_variables() {
    assert_true(
        &[
            "[1, 2].all(x, x > 0) && ![1, 2].all(x, x > 1) && [].all(x, false)",
            "[1, 2].exists(x, x > 1) && !([] .exists(x, true))",
            "[1, 2].exists_one(x, x > 1) && ![1, 2].existsOne(x, x > 0)",
            "[1, 2, 3].filter(x, x > 1) == [2, 3] && [1, 2].map(x, x * 2) == [2, 4]",
            "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
            "{'a': 1, 'b': 2}.all(k, k in ['a', 'b']) && {'a': 1}.map(k, k) == ['a']",
            "[0, 1].all(x, 1 / x == 1 || x == 0) && [0, 1].exists(x, 1 / x == 1)",
            "[1, 2].all(i, v, v == i + 1) && {'a': 1}.all(k, v, k == 'a' && v == 1)",
            "[1, 2].exists(i, v, i == 1 && v == 2) && {'a': 1}.exists(k, v, v == 1)",
            "[1, 2].existsOne(i, v, v == 2) && ![1, 1].exists_one(i, v, v == 1)",
            "[1, 2].transformList(i, v, i + v) == [1, 3]",
            "{'a': 1, 'b': 2}.transformList(k, v, v > 1, k) == ['b']",
            "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
            "[4, 5].transformMap(i, v, v > 4, v) == {1: 5}",
            "{'a': 'x', 'b': 'y'}.transformMapEntry(k, v, {v: k}) == {'x': 'a', 'y': 'b'}",
            "{'a': 'x', 'b': 'y'}.transformMapEntry(k, v, k == 'a', {v: k}) == {'x': 'a'}",
            "cel.bind(x, 2, x * x) == 4 && cel.bind(x, [1], cel.bind(y, x + [2], y + x)) == [1, 2, 1]",
            "cel.bind(x, 1 / 0, true)",
            "[[1], [2]].map(x, x.map(y, y + 1)) == [[2], [3]]",
        ],
        &[],
    );
    assert_errors(
        &[
            ("[1, 2].map(x, 1 / (x - 1))", "division by zero"),
            (
                "['a', 'a'].transformMapEntry(i, v, {v: i})",
                "key a already exists",
            ),
            ("1.all(x, true)", ""),
        ],
        &[],
    );
}

#[test]
fn optional_values() {
    assert_true(
        &[
            "optional.of(1).hasValue() && optional.of(1).value() == 1 && !optional.none().hasValue()",
            "optional.ofNonZeroValue(0) == optional.none() && optional.ofNonZeroValue(1).value() == 1",
            "optional.none().orValue(2) == 2 && optional.of(1).orValue(1 / 0) == 1",
            "optional.none().or(optional.of(1)).value() == 1 && optional.of(1).or(optional.of(2)).value() == 1",
            "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().optMap(x, x).hasValue()",
            "optional.of({'a': 1}).optFlatMap(x, x.?a).value() == 1",
            "{'a': {'b': 1}}.?a.?b.value() == 1 && !{'a': {'b': 1}}.?c.?b.hasValue()",
            "{'a': {'b': 1}}.?a.b.value() == 1 && {'a': [5]}.?a[0].orValue(0) == 5",
            "[1, 2][?1].value() == 2 && ![1, 2][?5].hasValue() && {'a': 1}[?'a'].value() == 1",
            "[?optional.of(1), ?optional.none(), 2] == [1, 2]",
            "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
            "has({'a': {'b': 1}}.?a.b) && !has({'a': {'b': 1}}.?x.b)",
            "optional.of(1) == optional.of(1) && optional.of(1) != optional.none()",
        ],
        &[],
    );
    assert_errors(
        &[("optional.none().value()", "optional.none() dereference")],
        &[],
    );
}

fn list(kind: ListKind, items: &[Value]) -> Value {
    Value::List(Arc::new(List {
        items: items.to_vec(),
        kind,
    }))
}

// findings-2 E6
#[test]
fn sets_and_keyed_lists_are_compared_and_added_by_their_kind() {
    let text = Value::text;
    let set = list(ListKind::Set, &[text("a"), text("b")]);
    let entry = |name: &str, port: i64| {
        let entries = [
            (Key::text("name"), text(name)),
            (Key::text("port"), Value::Int(port)),
        ];
        Value::map(entries.into_iter().collect::<Map>())
    };
    let keyed = ListKind::Keyed(Arc::from([Arc::from("name")]));
    let keyed = list(keyed, &[entry("x", 1), entry("y", 2)]);
    let variables = [("set", set), ("keyed", keyed)];
    assert_true(
        &[
            "set == ['b', 'a'] && set != ['a', 'c'] && ['b', 'a'] != set",
            "set + ['b', 'c'] == ['c', 'b', 'a'] && (set + ['b', 'c']).size() == 3",
            "keyed == [{'name': 'y', 'port': 2}, {'name': 'x', 'port': 1}]",
            "keyed != [{'name': 'y', 'port': 1}, {'name': 'x', 'port': 1}]",
            "(keyed + [{'name': 'x', 'port': 9}, {'name': 'z', 'port': 3}]).map(e, e.port) == [9, 2, 3]",
        ],
        &variables,
    );
}

#[test]
fn objects_are_constructed() {
    assert_true(
        &[
            "Object{spec: Object.spec{replicas: 1}}.spec.replicas == 1",
            "has(Object{a: 1}.a) && !has(Object{?a: optional.none()}.a)",
            "type(Object{}) == type(Object{}) && Object{a: 1} == Object{a: 1.0}",
        ],
        &[],
    );
    assert_eq!(
        program("Thing{a: 1}", &[]).unwrap_err(),
        "undeclared reference to 'Thing'"
    );
}
