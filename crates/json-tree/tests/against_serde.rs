//! The tree against the tree of `serde_json`: the same texts, types and errors.

use std::collections::BTreeMap;
use std::fmt::Debug;

use json_tree::{Error, Map, Value, from_value, json, to_value};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Name(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Zone {
    North,
    South,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Option<u8>),
    Tuple(i32, String),
    Struct { x: f64, tags: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Everything {
    flag: bool,
    small: i8,
    large: u64,
    ratio: f32,
    letter: char,
    nothing: (),
    pair: (u16, Name),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    optional: Option<Box<Everything>>,
    shapes: Vec<Shape>,
    by_number: BTreeMap<i16, Zone>,
    by_flag: BTreeMap<bool, u8>,
    by_name: BTreeMap<Name, Option<Name>>,
    by_zone: BTreeMap<Zone, ()>,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

fn everything() -> Everything {
    let mut value = Everything {
        flag: true,
        small: -3,
        large: u64::MAX,
        ratio: 0.5,
        letter: 'é',
        nothing: (),
        pair: (80, Name("a".to_owned())),
        optional: None,
        shapes: vec![
            Shape::Unit,
            Shape::Newtype(None),
            Shape::Newtype(Some(1)),
            Shape::Tuple(-1, "\"\n".to_owned()),
            Shape::Struct {
                x: 1e300,
                tags: vec![],
            },
        ],
        by_number: [(-1, Zone::South), (7, Zone::North)].into(),
        by_flag: [(true, 1)].into(),
        by_name: [(Name("k".to_owned()), None)].into(),
        by_zone: [(Zone::North, ())].into(),
        more: BTreeMap::new(),
    };
    value.optional = Some(Box::new(value.clone()));
    value.more = [("b".to_owned(), json!({"c": [null, 1.5]}))].into();
    value
}

#[test]
fn a_type_becomes_a_tree_and_is_read_from_it() {
    let value = everything();
    let tree = to_value(&value).unwrap();
    assert_eq!(tree.to_string(), serde_json::to_string(&value).unwrap());
    let wide = serde_json::to_value(0.1_f32).unwrap();
    assert_eq!(to_value(0.1_f32).unwrap().to_string(), wide.to_string());
    assert_eq!(Everything::deserialize(&tree).unwrap(), value);
    assert_eq!(from_value::<Everything>(tree).unwrap(), value);
    assert_eq!(json!(1.0_f64 / 0.0), Value::Null);
    assert!(to_value(BTreeMap::from([(vec![1], 2)])).is_err());
}

/// The types that a tree is read as, with the text of the result or of the error.
fn readings(
    as_everything: impl Fn() -> Result<Everything, Error>,
    as_shape: impl Fn() -> Result<Shape, Error>,
    as_numbers: impl Fn() -> Result<BTreeMap<i16, u8>, Error>,
    as_pair: impl Fn() -> Result<(u16, Option<Name>), Error>,
    as_text: impl Fn() -> Result<String, Error>,
) -> Vec<String> {
    fn text<T: Debug>(result: Result<T, Error>) -> String {
        match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => error.to_string(),
        }
    }
    vec![
        text(as_everything()),
        text(as_shape()),
        text(as_numbers()),
        text(as_pair()),
        text(as_text()),
    ]
}

#[test]
fn trees_of_other_forms_have_the_errors_of_serde_json() {
    for text in [
        "null",
        "true",
        "-5",
        "3.5",
        "70000",
        r#""Unit""#,
        r#""Newtype""#,
        r#""other""#,
        "[]",
        r#"[80, "a"]"#,
        "[80, null]",
        r#"[80, "a", 1]"#,
        "{}",
        r#"{"Newtype": 300}"#,
        r#"{"Unit": 1}"#,
        r#"{"Tuple": [1]}"#,
        r#"{"Tuple": [1, "a", 2]}"#,
        r#"{"Tuple": 1}"#,
        r#"{"Struct": {"x": 1, "tags": null}}"#,
        r#"{"Struct": [1, ["a"]]}"#,
        r#"{"Unit": null, "Newtype": null}"#,
        r#"{"1": 2, "-3": 4}"#,
        r#"{"flag": 1}"#,
        r#"{"flag": true, "small": 1000}"#,
        r#"{"flag": true, "small": 1}"#,
    ] {
        let tree: Value = serde_json::from_str(text).unwrap();
        let theirs: serde_json::Value = serde_json::from_str(text).unwrap();
        fn by<T: DeserializeOwned>(tree: &Value) -> Result<T, Error> {
            from_value(tree.clone())
        }
        fn borrowed<T: DeserializeOwned>(tree: &Value) -> Result<T, Error> {
            T::deserialize(tree)
        }
        fn expected<T: DeserializeOwned>(tree: &serde_json::Value) -> Result<T, Error> {
            serde_json::from_value(tree.clone())
        }
        let expected = readings(
            || expected(&theirs),
            || expected(&theirs),
            || expected(&theirs),
            || expected(&theirs),
            || expected(&theirs),
        );
        let owned = readings(
            || by(&tree),
            || by(&tree),
            || by(&tree),
            || by(&tree),
            || by(&tree),
        );
        assert_eq!(owned, expected, "{text}");
        let borrowed = readings(
            || borrowed(&tree),
            || borrowed(&tree),
            || borrowed(&tree),
            || borrowed(&tree),
            || borrowed(&tree),
        );
        assert_eq!(borrowed, expected, "{text}");
    }
}

#[test]
fn json_is_written_in_the_source() {
    const NAME: &str = "name";
    let (name, list) = ("web".to_owned(), vec![1, 2]);
    let value = json!({
        "null": null,
        "nested": {"empty": {}, "list": [], "deep": [[1], {"a": [null, true]}, null]},
        NAME: name,
        (format!("{name}-0")): list,
        "sum": 40 + 3,
        "first": list[0],
        "some": Some(list.len()),
        "last": if name.is_empty() { json!(1) } else { json!({"b": -1.5}) },
    });
    assert_eq!(
        value.to_string(),
        r#"{"null":null,"nested":{"empty":{},"list":[],"deep":[[1],{"a":[null,true]},null]},"name":"web","web-0":[1,2],"sum":43,"first":1,"some":2,"last":{"b":-1.5}}"#
    );
    assert_eq!(json!([1, "a",]), json!(vec![json!(1), json!("a")]));
    assert_eq!(json!("a"), "a");
    assert_eq!(json!(null), Value::Null);
}

#[test]
fn members_and_elements_are_indexed() {
    let mut value = json!({"a~/b": [{"c": 1}, 2], "": null});
    assert_eq!(value["a~/b"][0]["c"], 1);
    assert!(value["a~/b"][7]["c"].is_null() && value[0].is_null());
    assert_eq!(
        value.get("a~/b").and_then(|list| list.get(1)),
        Some(&json!(2))
    );
    for (pointer, expected) in [
        ("/a~0~1b/0/c", Some(json!(1))),
        ("/a~0~1b/1", Some(json!(2))),
        ("/", Some(Value::Null)),
        ("/a~0~1b/01", None),
        ("/a~0~1b/+1", None),
        ("/a~0~1b/-", None),
        ("/a~0~1b/2", None),
        ("/x", None),
        ("x", None),
    ] {
        assert_eq!(value.pointer(pointer), expected.as_ref(), "{pointer}");
        assert_eq!(value.pointer_mut(pointer).cloned(), expected, "{pointer}");
    }
    assert_eq!(value.pointer("").map(Value::is_object), Some(true));
    value[""]["d"]["e"] = json!(true);
    value["a~/b"][1] = json!("f");
    assert_eq!(
        value,
        json!({"a~/b": [{"c": 1}, "f"], "": {"d": {"e": true}}})
    );
    assert_eq!(value["a~/b"].take(), json!([{"c": 1}, "f"]));
    assert!(value["a~/b"].is_null());
}

#[test]
fn values_are_compared_with_others() {
    let value = json!({"i": -1, "u": 1, "f": 0.5, "b": true, "s": "a"});
    assert!(value["i"] == -1 && value["u"] == 1_u64 && value["u"] == 1_usize);
    assert!(-1 == value["i"]);
    assert!(value["i"] != 1 && value["s"] != 1 && value["u"] != "1");
    assert!(value["f"] == 0.5);
    assert_eq!(value["b"], true);
    assert!(value["s"] == "a");
    assert!("a" == value["s"]);
    let text = "a".to_owned();
    assert!(value["s"] == text && value["s"] == *"a");
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[\\PC\"\\\\\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec(("[a-z]{0,2}", inner), 0..40)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map>())),
        ]
    })
}

proptest! {
    #[test]
    fn any_tree_is_a_text_and_a_value_of_serde_json(tree in tree()) {
        let text = tree.to_string();
        prop_assert_eq!(&serde_json::to_string(&tree).unwrap(), &text);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &tree);
        prop_assert_eq!(&read.to_string(), &text, "the order");
        let pretty: Value = serde_json::from_str(&format!("{tree:#}")).unwrap();
        prop_assert_eq!(pretty.to_string(), text);
        let theirs: serde_json::Value = from_value(tree.clone()).unwrap();
        prop_assert_eq!(&theirs, &serde_json::to_value(&tree).unwrap());
        prop_assert_eq!(&serde_json::Value::deserialize(&tree).unwrap(), &theirs);
        prop_assert_eq!(&to_value(&theirs).unwrap(), &tree);
        prop_assert_eq!(&serde_json::from_value::<Value>(theirs).unwrap(), &tree);
    }
}
