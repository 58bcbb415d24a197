//! Comparison of the cursor and of the search with a tree that `serde_json` decodes.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use json_text::{Cursor, Member, SyntaxError, find, find_member, find_string};
use json_tree::{Map, Value, json};
use proptest::prelude::*;

mod tree;
use tree::tree;

/// The nesting limit of `serde_json`.
const DEPTH_MAX: usize = 127;

/// Writes equivalent forms of a value: with white space between tokens, and with escapes that are not necessary.
struct Writer {
    out: String,
    choices: Vec<u8>,
    next: usize,
}

impl Writer {
    fn text(value: &Value, choices: Vec<u8>) -> String {
        let mut writer = Self {
            out: String::new(),
            choices,
            next: 0,
        };
        writer.value(value);
        writer.out
    }

    fn choice(&mut self) -> u8 {
        self.next += 1;
        let at = self.next % self.choices.len().max(1);
        self.choices.get(at).copied().unwrap_or_default()
    }

    fn token(&mut self, token: &str) {
        let space = match self.choice() % 16 {
            1 => " ",
            2 => "\n\t",
            3 => "\r\n  ",
            _ => "",
        };
        self.out.push_str(space);
        self.out.push_str(token);
    }

    fn string(&mut self, text: &str) {
        self.token("\"");
        for char in text.chars() {
            if self.choice().is_multiple_of(8) {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                let quoted = Value::from(char.to_string()).to_string();
                self.out.push_str(&quoted[1..quoted.len() - 1]);
            }
        }
        self.out.push('"');
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(elements) => {
                self.token("[");
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        self.token(",");
                    }
                    self.value(element);
                }
                self.token("]");
            }
            Value::Object(members) => {
                self.token("{");
                for (index, (key, member)) in members.iter().enumerate() {
                    if index > 0 {
                        self.token(",");
                    }
                    self.string(key);
                    self.token(":");
                    self.value(member);
                }
                self.token("}");
            }
            scalar => self.token(&scalar.to_string()),
        }
    }
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a\"\\\\{}\\[\\],:é\n]{0,6}",
        "[ -~]{0,40}",
        "\\PC{0,12}",
        "[a\\\\\"]{0,200}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        string().prop_map(Value::from),
    ];
    let inner = leaf.prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((prop_oneof!["[ab]{1,2}", string()], inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    // Some values have the maximum depth.
    (inner, prop_oneof![4 => Just(0), 1 => 0..DEPTH_MAX - 6]).prop_map(|(inner, depth)| {
        (0..depth).fold(inner, |value, level| match level % 2 {
            0 => Value::from(vec![value]),
            _ => Value::Object(Map::from_iter([("a".to_owned(), value)])),
        })
    })
}

fn written() -> impl Strategy<Value = (Value, String)> {
    (value(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(value, choices)| {
        let text = Writer::text(&value, choices);
        // Numbers are compared after a round trip through text.
        let value = serde_json::from_str(&text).unwrap();
        (value, text)
    })
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]{1,2}", 0..4)
}

fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    let mut names = path.iter();
    names.try_fold(value, |value, name| value.as_object()?.get(*name))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_cursor_reads_the_tree((value, text) in written()) {
        let mut cursor = Cursor::new(text.as_bytes());
        prop_assert_eq!(tree(&mut cursor).unwrap(), value);
        prop_assert_eq!(cursor.offset(), text.trim_end().len());
        let mut cursor = Cursor::new(text.as_bytes());
        prop_assert_eq!(cursor.skip().unwrap(), text.trim().as_bytes());
    }

    #[test]
    fn a_path_leads_to_the_value_of_the_tree((value, text) in written(), path in path()) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let expected = at(&value, &path);
        let result = find(text.as_bytes(), &path).unwrap();
        let result: Option<Value> = result.map(|result| serde_json::from_slice(result).unwrap());
        prop_assert_eq!(result.as_ref(), expected);
        let string = find_string(text.as_bytes(), &path).unwrap();
        prop_assert_eq!(string.as_deref(), expected.and_then(Value::as_str));
    }

    /// The text without a member is the tree without it.
    #[test]
    fn a_member_is_cut_out((value, text) in written(), path in path()) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let result = find_member(text.as_bytes(), &path).unwrap();
        prop_assert_eq!(result.is_some(), !path.is_empty() && at(&value, &path).is_some());
        if let Some(Member { whole, value: place, .. }) = result {
            prop_assert_eq!(Ok(Some(text[place].as_bytes())), find(text.as_bytes(), &path));
            let mut cut = text;
            cut.replace_range(whole, "");
            let mut expected = value;
            let parent = path[..path.len() - 1].iter();
            let parent = parent.fold(&mut expected, |value, name| &mut value[*name]);
            parent.as_object_mut().unwrap().shift_remove(path[path.len() - 1]);
            prop_assert_eq!(serde_json::from_str::<Value>(&cut).unwrap(), expected);
        }
    }

    /// A truncated text has no tree, and its values equal those of the whole text.
    #[test]
    fn a_cut_text_is_an_error((value, text) in written(), path in path(), cut in any::<prop::sample::Index>()) {
        prop_assume!(value.is_object() || value.is_array() || value.is_string());
        let cut = &text.as_bytes()[..cut.index(text.trim_end().len())];
        prop_assert!(tree(&mut Cursor::new(cut)).is_err());
        let error = Cursor::new(cut).skip().unwrap_err();
        prop_assert_eq!(error, SyntaxError::End(cut.len()));
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Ok(result) = find(cut, &path) {
            prop_assert_eq!(Ok(result), find(text.as_bytes(), &path));
        }
        if let Ok(Some(result)) = find_member(cut, &path) {
            prop_assert_eq!(Ok(Some(result)), find_member(text.as_bytes(), &path));
        }
    }

    /// No bytes make the reader panic, and an error is at a byte of the text.
    #[test]
    fn any_bytes_are_survived(bytes in "[{}\\[\\]\",:\\\\a1tu \u{e9}]{0,40}", path in path()) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let bytes = bytes.as_bytes();
        let errors = [
            tree(&mut Cursor::new(bytes)).err(),
            Cursor::new(bytes).skip().err(),
            find(bytes, &path).err(),
            find_string(bytes, &path).err(),
            find_member(bytes, &path).err(),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(error.offset() <= bytes.len(), "{}", error);
        }
    }
}

#[test]
fn values_are_found_at_their_path_alone() {
    let object = json!({
        "metadata": {"name": "a", "annotations": {"spec": "{\"nodeName\":\"x\"}"}},
        "spec": {"first": [{"nodeName": "wrong"}], "nodeName": "a\"b\\", "n": 5, "on": true},
        "status": {"phase": "Running"},
    });
    let object = object.to_string();
    let string = |path: &[&str]| find_string(object.as_bytes(), path).unwrap();
    assert_eq!(string(&["spec", "nodeName"]).unwrap(), "a\"b\\");
    assert_eq!(string(&["status", "phase"]).unwrap(), "Running");
    let value = |path: &[&str]| find(object.as_bytes(), path).unwrap();
    assert_eq!(value(&["spec", "n"]).unwrap(), b"5");
    assert_eq!(value(&["spec", "on"]).unwrap(), b"true");
    assert_eq!(string(&["spec", "n"]), None);
    assert_eq!(string(&["spec", "absent"]), None);
    assert_eq!(string(&["status", "phase", "deeper"]), None);
}

/// A value is skipped without recursion.
#[test]
fn no_depth_is_too_deep() {
    let deep = [vec![b'['; 1_000_000], vec![b']'; 1_000_000]].concat();
    assert_eq!(Cursor::new(&deep).skip(), Ok(&deep[..]));
    assert_eq!(
        Cursor::new(&deep[..1_500_000]).skip(),
        Err(SyntaxError::End(1_500_000))
    );
}
