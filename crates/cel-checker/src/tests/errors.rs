use super::*;

#[test]
fn undeclared_names_are_errors() {
    let cases: [(&str, &[&str]); 10] = [
        (
            "foo",
            &["1:1 undeclared reference to 'foo' (in container '')"],
        ),
        (
            "1 + y",
            &["1:5 undeclared reference to 'y' (in container '')"],
        ),
        (
            "fun()",
            &["1:4 undeclared reference to 'fun' (in container '')"],
        ),
        (
            "'string'.fun()",
            &["1:13 undeclared reference to 'fun' (in container '')"],
        ),
        (
            "x.numbers.exists(y, y > 10) && y < 5",
            &["1:32 undeclared reference to 'y' (in container '')"],
        ),
        (
            "Msg{}",
            &["1:4 undeclared reference to 'Msg' (in container '')"],
        ),
        (
            "maybe_int{}",
            &["1:10 undeclared reference to 'maybe_int' (in container '')"],
        ),
        (
            "a.b + no.such",
            &[
                "1:1 undeclared reference to 'a' (in container '')",
                "1:7 undeclared reference to 'no' (in container '')",
            ],
        ),
        (
            "iz &&\n  missing",
            &["2:3 undeclared reference to 'missing' (in container '')"],
        ),
        (
            "'ä' + missing",
            &["1:7 undeclared reference to 'missing' (in container '')"],
        ),
    ];
    assert_errors(&declarations(), &cases);
}

#[test]
fn undefined_fields_are_errors() {
    let cases: [(&str, &[&str]); 8] = [
        (
            "x.part.undefined == x.undefined && has(x.number)",
            &[
                "1:7 undefined field 'undefined'",
                "1:22 undefined field 'undefined'",
            ],
        ),
        ("has(x.undefined)", &["1:4 undefined field 'undefined'"]),
        ("x.?undefined", &["1:2 undefined field 'undefined'"]),
        ("xs.all(y, y.nope == 1)", &["1:12 undefined field 'nope'"]),
        (
            "[].length",
            &["1:3 type 'list(_var0)' does not support field selection"],
        ),
        (
            "'a'.b",
            &["1:4 type 'string' does not support field selection"],
        ),
        (
            "x.number.a",
            &["1:9 type 'int' does not support field selection"],
        ),
        (
            "Whole{number: 1, undefined: 2}",
            &["1:27 undefined field 'undefined'"],
        ),
    ];
    assert_errors(&declarations(), &cases);
}

#[test]
fn calls_without_an_overload_are_errors() {
    let overload = |function: &str, at: &str, types: &str| {
        format!("{at} found no matching overload for '{function}' applied to '{types}'")
    };
    for (source, at, function, types) in [
        ("1 + 'a'", "1:3", "_+_", "(int, string)"),
        ("xs + x.numbers", "1:4", "_+_", "(list(Whole), list(int))"),
        ("xs[1u]", "1:3", "_[_]", "(list(Whole), uint)"),
        (
            "xm[2].number == 23",
            "1:3",
            "_[_]",
            "(map(string, Whole), int)",
        ),
        ("x.number != null", "1:10", "_!=_", "(int, null)"),
        ("x.text == null", "1:8", "_==_", "(string, null)"),
        ("null == x.numbers", "1:6", "_==_", "(null, list(int))"),
        ("1 == 1u", "1:3", "_==_", "(int, uint)"),
        ("!1", "1:1", "!_", "(int)"),
        ("-'a'", "1:1", "-_", "(string)"),
        ("1 + -iu", "1:5", "-_", "(uint)"),
        ("1 ? 2 : 3", "1:3", "_?_:_", "(int, int, int)"),
        ("iz ? 2 : 'a'", "1:4", "_?_:_", "(bool, int, string)"),
        ("'a'.size(1)", "1:9", "size", "string.(int)"),
        ("size(1)", "1:5", "size", "(int)"),
        ("'a'.startsWith(1)", "1:15", "startsWith", "string.(int)"),
        (
            "startsWith('a', 'b')",
            "1:11",
            "startsWith",
            "(string, string)",
        ),
        ("int(b'a')", "1:4", "int", "(bytes)"),
        ("1.5 % 2.0", "1:5", "_%_", "(double, double)"),
        ("1 in [true]", "1:3", "@in", "(int, list(bool))"),
        ("true < 1", "1:6", "_<_", "(bool, int)"),
        ("x.since + x.since", "1:9", "_+_", "(timestamp, timestamp)"),
        (
            "[].map(x, [].map(y, x in y && y in x))",
            "1:33",
            "@in",
            "(list(dyn), dyn)",
        ),
        ("x.labels[1]", "1:9", "_[_]", "(map(string, string), int)"),
        ("x == x.part", "1:3", "_==_", "(Whole, Part)"),
        (
            "optional.of(1).orValue('a')",
            "1:23",
            "orValue",
            "optional_type(int).(string)",
        ),
        ("x.?number + 1", "1:11", "_+_", "(optional_type(int), int)"),
    ] {
        let expected = overload(function, at, types);
        assert_errors(&declarations(), &[(source, &[expected.as_str()])]);
    }
}

#[test]
fn other_types_than_expected_are_errors() {
    let cases: [(&str, &[&str]); 14] = [
        (
            "iz.all(y, y == true)",
            &[
                "1:1 expression of type 'bool' cannot be range of a comprehension (must be list, map, or dynamic)",
            ],
        ),
        (
            "x.all(e, 0)",
            &[
                "1:1 expression of type 'Whole' cannot be range of a comprehension (must be list, map, or dynamic)",
                "1:10 expected type 'bool' but found 'int'",
            ],
        ),
        (
            "1 && 'a'",
            &[
                "1:1 expected type 'bool' but found 'int'",
                "1:6 expected type 'bool' but found 'string'",
            ],
        ),
        ("iz || ii", &["1:7 expected type 'bool' but found 'int'"]),
        (
            "x.numbers.filter(y, y)",
            &[
                "1:17 found no matching overload for '_?_:_' applied to '(int, list(int), list(int))'",
            ],
        ),
        (
            "{?'key': 'hi'}",
            &["1:10 expected type 'optional_type(string)' but found 'string'"],
        ),
        (
            "[?'value']",
            &["1:3 expected type 'optional_type(string)' but found 'string'"],
        ),
        (
            "Whole{?number: 1}",
            &["1:16 expected type 'optional_type(int)' but found 'int'"],
        ),
        (
            "Whole{number: 1u}",
            &["1:13 expected type of field 'number' is 'int' but provided type is 'uint'"],
        ),
        ("int{}", &["1:4 'int' is not a message type"]),
        (
            "x.numbers.all(e, e + 1)",
            &["1:20 expected type 'bool' but found 'int'"],
        ),
        (
            "x.texts.exists(e, e)",
            &["1:19 expected type 'bool' but found 'string'"],
        ),
        (
            "x.numbers.transformList(i, v, i + v + 'a')",
            &["1:37 found no matching overload for '_+_' applied to '(int, string)'"],
        ),
        (
            "foo && 1 + 'a' == 2",
            &[
                "1:1 undeclared reference to 'foo' (in container '')",
                "1:10 found no matching overload for '_+_' applied to '(int, string)'",
            ],
        ),
    ];
    assert_errors(&declarations(), &cases);
}

#[test]
fn literals_can_be_required_to_be_homogeneous() {
    let declarations = declarations()
        .with_homogeneous_literals(true)
        .with_function("format", "format", "string.(list(dyn)) -> string")
        .unwrap();
    let cases: [(&str, &[&str]); 7] = [
        (
            "[1, 'a', 2u]",
            &["1:5 expected type 'int' but found 'string'"],
        ),
        (
            "{1: 2u, 2u: 3}",
            &[
                "1:9 expected type 'int' but found 'uint'",
                "1:13 expected type 'uint' but found 'int'",
            ],
        ),
        (
            "[1, [2]]",
            &["1:5 expected type 'int' but found 'list(int)'"],
        ),
        (
            "[1, dyn('a')]",
            &["1:8 expected type 'int' but found 'dyn'"],
        ),
        (
            "xs.all(y, [y, 1].size() > 0)",
            &["1:15 expected type 'Whole' but found 'int'"],
        ),
        (
            "[dyn(1), dyn('a')] == [] && [?opt_text, 'a'] != []",
            &["type bool"],
        ),
        ("'%s'.format([1, 'a', [1, 'b']])", &["type string"]),
    ];
    assert_errors(&declarations, &cases);
}

#[test]
fn numbers_of_different_types_can_be_without_order() {
    let declarations = declarations().with_numeric_comparisons(false);
    let cases: [(&str, &[&str]); 3] = [
        (
            "1 <= 1.0",
            &["1:3 found no matching overload for '_<=_' applied to '(int, double)'"],
        ),
        (
            "1u > 1",
            &["1:4 found no matching overload for '_>_' applied to '(uint, int)'"],
        ),
        ("1 <= 1 && 1.0 > 2.0", &["type bool"]),
    ];
    assert_errors(&declarations, &cases);
}

#[test]
fn errors_are_shown_with_their_lines() {
    let declarations = declarations();
    for (source, expected) in [
        (
            "1 + foo",
            "ERROR: <input>:1:5: undeclared reference to 'foo' (in container '')\n | 1 + foo\n | ....^",
        ),
        (
            "foo",
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (
            "iz &&\n\tfoo + bar",
            "ERROR: <input>:2:2: undeclared reference to 'foo' (in container '')\n |  foo + bar\n | .^\n\
             ERROR: <input>:2:8: undeclared reference to 'bar' (in container '')\n |  foo + bar\n | .......^",
        ),
        (
            "'ä' + foo",
            "ERROR: <input>:1:7: undeclared reference to 'foo' (in container '')\n | 'ä' + foo\n | .\u{ff0e}....^",
        ),
    ] {
        let errors = checked(source, &declarations).unwrap_err();
        assert_eq!(errors.to_string(), expected);
    }
    let list = format!("[{}]", vec!["foo"; 130].join(", "));
    let errors = checked(&list, &declarations).unwrap_err();
    assert_eq!(errors.errors.len(), 100);
    assert!(
        errors
            .to_string()
            .ends_with("\n30 more errors were truncated")
    );
}
