//! The simple JSON paths of definitions: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

use json_tree::Value;

/// Maximum length of a path, in bytes.
const BYTES_MAX: usize = 4096;
/// Maximum number of steps. Objects are not deeper, and a deeper object from [`JsonPath::set`] could overflow the
/// stack of recursive code.
const STEPS_MAX: usize = 64;

/// A path from an object to values inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Counted from the end if negative.
    Index(i64),
    All,
    /// The elements in which the value at the path is this text.
    Where(JsonPath, String),
}

impl JsonPath {
    /// Parses a path; `None` for an unsupported form, or for a path that is too long.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match rest.strip_prefix('[') {
                Some(inner) => bracket(inner)?,
                None => field(rest.strip_prefix('.')?)?,
            };
            steps.push(step);
            rest = after;
        }
        (1..=STEPS_MAX)
            .contains(&steps.len())
            .then_some(Self(steps))
    }

    /// Whether the path consists of field names only.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|step| matches!(step, Step::Field(_)))
    }

    /// The values at the path.
    pub fn all<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut values = vec![value];
        for step in &self.0 {
            values = values
                .into_iter()
                .flat_map(|value| step.select(value))
                .collect();
        }
        values
    }

    /// The first value at the path.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.all(value).into_iter().next()
    }

    /// Sets the value at a plain path, and creates missing objects; returns false if a parent is not an object.
    pub fn set(&self, value: &mut Value, new: Value) -> bool {
        let mut target = value;
        for step in &self.0 {
            let Step::Field(name) = step else {
                return false;
            };
            if target.is_null() {
                *target = Value::Object(json_tree::Map::new());
            }
            let Some(map) = target.as_object_mut() else {
                return false;
            };
            target = map.entry(name.clone()).or_insert(Value::Null);
        }
        *target = new;
        true
    }
}

impl Step {
    fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let position = if *index < 0 {
                    i64::try_from(items.len()).unwrap_or_default() + index
                } else {
                    *index
                };
                let index = usize::try_from(position).ok();
                index
                    .and_then(|index| items.get(index))
                    .into_iter()
                    .collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Where(path, expected) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let fits = |item: &&Value| {
                    path.first(item).is_some_and(|value| match value {
                        Value::String(text) => text == expected,
                        value => value.to_string().as_str() == expected,
                    })
                };
                items.iter().filter(fits).collect()
            }
        }
    }
}

/// A field name up to the next dot or bracket; a backslash escapes the next character.
fn field(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(c),
        }
    }
    let step = if name == "*" {
        Step::All
    } else {
        Step::Field(name.clone())
    };
    (!name.is_empty()).then(|| (step, text.get(end..).unwrap_or_default()))
}

/// A step in brackets; `text` starts after the opening bracket.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(inner) = text.strip_prefix("?(") {
        let (condition, after) = inner.split_once(")]")?;
        let (path, expected) = condition.split_once("==")?;
        let path = JsonPath::parse(path.trim().strip_prefix('@')?)?;
        let expected = expected.trim().trim_matches(['"', '\'']).to_owned();
        return Some((Step::Where(path, expected), after));
    }
    let (inner, after) = text.split_once(']')?;
    let inner = inner.trim();
    let quoted = |mark: char| inner.strip_prefix(mark)?.strip_suffix(mark);
    let step = match quoted('\'').or_else(|| quoted('"')) {
        Some(name) => Step::Field(name.to_owned()),
        None if inner == "*" => Step::All,
        None => Step::Index(inner.parse().ok()?),
    };
    Some((step, after))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_path_is_as_deep_as_objects_are() {
        assert!(JsonPath::parse(&".a".repeat(STEPS_MAX)).is_some());
        for long in [".a".repeat(STEPS_MAX + 1), ".a".repeat(100_000)] {
            assert_eq!(JsonPath::parse(&long), None);
        }
        let nested = format!("{}.a", ".a[?(@".repeat(100_000));
        assert_eq!(JsonPath::parse(&nested), None);
    }

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}});
        let cases = [
            (r".spec['a.b']", json!([1])),
            (r".spec.a\.b", json!([1])),
            (".spec.list[1].v", json!([2])),
            (".spec.list[-1].v", json!([2])),
            (".spec.list[*].n", json!(["x", "y"])),
            (r#".spec.list[?(@.n=="y")].v"#, json!([2])),
            ("{.spec.list[?(@.v==1)].n}", json!(["x"])),
            (".spec.none.at.all", json!([])),
        ];
        for (text, expected) in cases {
            let path = JsonPath::parse(text).unwrap();
            let values: Vec<Value> = path.all(&object).into_iter().cloned().collect();
            assert_eq!(json!(values), expected, "{text}");
        }
        for text in ["", "spec", ".spec[", ".spec[?(@.x)]", "."] {
            assert_eq!(JsonPath::parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_set_at_plain_paths() {
        let mut object = json!({"spec": {"a": 1}});
        assert!(
            JsonPath::parse(".spec.b.c")
                .unwrap()
                .set(&mut object, json!(2))
        );
        assert_eq!(object, json!({"spec": {"a": 1, "b": {"c": 2}}}));
        assert!(
            !JsonPath::parse(".spec.a.c")
                .unwrap()
                .set(&mut object, json!(2))
        );
    }
}
