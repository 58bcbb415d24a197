//! The JSON paths of definitions, in the syntax of `k8s.io/client-go/util/jsonpath`: `.spec.replicas`,
//! `.status.conditions[?(@.type=="Ready")].status`.

use std::cmp::Ordering;

use json_tree::Value;

/// Maximum length of a path, in bytes.
const BYTES_MAX: usize = 4096;
/// Maximum number of steps. Objects are not deeper, and a deeper object from [`JsonPath::set`] could overflow the
/// stack of recursive code.
pub(crate) const STEPS_MAX: usize = 64;
/// Maximum number of values after a step, because `..` can multiply them.
const VALUES_MAX: usize = 10_000;

/// A path from an object to values inside of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Elements from the first number to before the second, each counted from the end if negative.
    Slice(Slice),
    /// All elements, or all values of an object.
    All,
    /// All values inside of a value, at any depth.
    Descendants,
    /// The values of several steps, one after the other.
    Union(Vec<Step>),
    Where(Filter),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slice {
    from: i64,
    /// `None` for the end of the list.
    to: Option<i64>,
    step: i64,
}

/// The elements for which a comparison is true.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: ComparedValue,
    /// `None`: the left operand exists.
    comparison: Option<(Comparison, ComparedValue)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum ComparedValue {
    /// A path from the element.
    Path(Vec<Step>),
    Literal(Value),
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
        let steps = steps(text.strip_prefix('$').unwrap_or(text))?;
        let is_absolute = text.starts_with(['.', '[', '$']);
        (is_absolute && !steps.is_empty()).then_some(Self(steps))
    }

    /// The path of names between dots, without other syntax; `None` if it is too long.
    pub fn of_names(text: &str) -> Option<Self> {
        let names = text.strip_prefix('.')?;
        let steps: Vec<Step> = names
            .split('.')
            .take(STEPS_MAX + 1)
            .map(|name| Step::Field(name.to_owned()))
            .collect();
        (steps.len() <= STEPS_MAX && text.len() <= BYTES_MAX).then_some(Self(steps))
    }

    /// The values at the path.
    pub fn all<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        select(&self.0, value)
    }

    /// The first value at the path.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.all(value).into_iter().next()
    }

    /// Sets the value at a path of names, and creates missing objects; returns false if a parent is not an object.
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

fn select<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let mut values = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in values {
            step.select(value, &mut next);
            next.truncate(VALUES_MAX);
        }
        values = next;
    }
    values
}

impl Step {
    fn select<'v>(&self, value: &'v Value, selected: &mut Vec<&'v Value>) {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        match self {
            Self::Field(name) => selected.extend(value.get(name.as_str())),
            Self::Slice(slice) => slice.select(items, selected),
            Self::All => match value {
                Value::Object(map) => selected.extend(map.values()),
                _ => selected.extend(items),
            },
            Self::Descendants => descend(value, selected),
            Self::Union(steps) => steps.iter().for_each(|step| step.select(value, selected)),
            Self::Where(filter) => selected.extend(items.iter().filter(|item| filter.fits(item))),
        }
    }
}

fn descend<'v>(value: &'v Value, selected: &mut Vec<&'v Value>) {
    if selected.len() >= VALUES_MAX {
        return;
    }
    selected.push(value);
    match value {
        Value::Object(map) => map.values().for_each(|value| descend(value, selected)),
        Value::Array(items) => items.iter().for_each(|value| descend(value, selected)),
        _ => {}
    }
}

impl Slice {
    fn select<'v>(&self, items: &'v [Value], selected: &mut Vec<&'v Value>) {
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let place = |number: i64| match number < 0 {
            true => number.saturating_add(length),
            false => number,
        };
        let (from, to) = (place(self.from), self.to.map_or(length, place));
        let (Ok(from), Ok(to), Ok(step)) = (
            usize::try_from(from),
            usize::try_from(to),
            usize::try_from(self.step),
        ) else {
            return;
        };
        let range = items.get(from..to.min(items.len()).max(from));
        selected.extend(range.into_iter().flatten().step_by(step.max(1)));
    }
}

impl Filter {
    fn fits(&self, item: &Value) -> bool {
        let left = self.left.value(item);
        let Some((comparison, right)) = &self.comparison else {
            return left.is_some();
        };
        let (Some(left), Some(right)) = (left, right.value(item)) else {
            return false;
        };
        cov_mark::hit!(findings_2_k8);
        comparison.holds(left, right)
    }
}

impl ComparedValue {
    fn value<'v>(&'v self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Literal(value) => Some(value),
            Self::Path(steps) => select(steps, item).into_iter().next(),
        }
    }
}

impl Comparison {
    const ALL: [(&'static str, Self); 6] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    fn holds(self, left: &Value, right: &Value) -> bool {
        let ordering = match (left, right) {
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (Value::Bool(left), Value::Bool(right)) if left == right => Some(Ordering::Equal),
            (Value::Bool(_), Value::Bool(_)) => return self == Self::NotEqual,
            _ => match (left.as_f64(), right.as_f64()) {
                (Some(left), Some(right)) => left.partial_cmp(&right),
                _ => None,
            },
        };
        // Values of different types cannot be compared.
        let Some(ordering) = ordering else {
            return false;
        };
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// The steps of a path after its start; the paths of a filter are not nested.
fn steps(text: &str) -> Option<Vec<Step>> {
    let mut rest = text;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let after = if let Some(inner) = rest.strip_prefix('[') {
            let (step, after) = bracket(inner)?;
            steps.push(step);
            after
        } else if let Some(after) = rest.strip_prefix("..") {
            if steps.last() == Some(&Step::Descendants) {
                return None;
            }
            steps.push(Step::Descendants);
            let starts_name = after.starts_with(|c: char| c.is_alphanumeric());
            match starts_name {
                true => field(after, &mut steps)?,
                false => after,
            }
        } else {
            field(rest.strip_prefix('.')?, &mut steps)?
        };
        if steps.len() > STEPS_MAX {
            return None;
        }
        rest = after;
    }
    Some(steps)
}

/// Adds a field name up to the next dot or bracket; a backslash escapes the next character. A dot without a name has
/// no effect.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> Option<&'t str> {
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
            ' ' | ',' | ']' | '$' | '@' | '{' | '}' => return None,
            _ => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    text.get(end..)
}

/// A step in brackets; `text` starts after the opening bracket.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(inner) = text.strip_prefix("?(") {
        let (condition, after) = inner.split_once(")]")?;
        return Some((Step::Where(filter(condition)?), after));
    }
    let (inner, after) = text
        .get(..closing(text)?)
        .zip(text.get(closing(text)? + 1..))?;
    let step = match inner.contains(',') && unquoted(inner).is_none() {
        true => Step::Union(inner.split(',').map(selection).collect::<Option<_>>()?),
        false => selection(inner)?,
    };
    Some((step, after))
}

/// The position of the closing bracket outside of quoted text.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ']') => return Some(at),
            _ => {}
        }
        None
    })
}

/// The text between quotation marks.
fn unquoted(text: &str) -> Option<&str> {
    let inner = |mark: char| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark)).then_some(inner)
    };
    inner('\'').or_else(|| inner('"'))
}

/// A name in quotation marks, a star, an index or a slice.
fn selection(text: &str) -> Option<Step> {
    let text = text.trim();
    if let Some(name) = unquoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if text == "*" {
        return Some(Step::All);
    }
    let mut numbers = text.split(':').map(|part| match part {
        "" => Some(None),
        part => part.parse::<i64>().ok().map(Some),
    });
    let first = numbers.next()??;
    let second = numbers
        .next()
        .map_or(Some(None), |number| number.map(Some))?;
    let third = numbers.next().unwrap_or(Some(None))?;
    if numbers.next().is_some() {
        return None;
    }
    let from = first.unwrap_or_default();
    // An index alone is one element, and so is nothing at all: the first element.
    let to = match second {
        Some(to) => to,
        None if from == -1 => None,
        None => Some(from.saturating_add(1)),
    };
    let step = third.unwrap_or(1);
    (step >= 0).then_some(Step::Slice(Slice { from, to, step }))
}

fn filter(condition: &str) -> Option<Filter> {
    let compared = condition
        .char_indices()
        .find(|(at, c)| *at > 0 && matches!(c, '!' | '<' | '>' | '='));
    let Some((at, _)) = compared else {
        let left = operand(condition)?;
        return Some(Filter {
            left,
            comparison: None,
        });
    };
    let (left, rest) = condition.split_at_checked(at)?;
    let (sign, comparison) = Comparison::ALL
        .iter()
        .find(|(sign, _)| rest.starts_with(sign))?;
    let right = operand(rest.get(sign.len()..)?)?;
    Some(Filter {
        left: operand(left)?,
        comparison: Some((*comparison, right)),
    })
}

fn operand(text: &str) -> Option<ComparedValue> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix('@') {
        // A filter inside of a filter is not supported, so the depth of this call is two at most.
        return (!path.contains("?(")).then(|| steps(path).map(ComparedValue::Path))?;
    }
    let value = match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match (unquoted(text), text.parse::<i64>(), text.parse::<f64>()) {
            (Some(text), _, _) => text.into(),
            (None, Ok(number), _) => number.into(),
            (None, _, Ok(number)) if number.is_finite() => number.into(),
            _ => return None,
        },
    };
    Some(ComparedValue::Literal(value))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_path_is_as_deep_as_objects_are() {
        assert!(JsonPath::parse(&".a".repeat(STEPS_MAX)).is_some());
        assert!(JsonPath::of_names(&".a".repeat(STEPS_MAX)).is_some());
        for long in [".a".repeat(STEPS_MAX + 1), ".a".repeat(100_000)] {
            assert_eq!(JsonPath::parse(&long), None);
            assert_eq!(JsonPath::of_names(&long), None);
        }
        let nested = format!("{}.a", ".a[?(@".repeat(600));
        assert_eq!(JsonPath::parse(&nested), None);
    }

    #[test]
    fn descendants_of_descendants_are_bounded() {
        let mut object = json!(1);
        for _ in 0..100 {
            object = json!({"a": [object.clone(), 1]});
        }
        let path = JsonPath::parse(&"..a".repeat(30)).unwrap();
        assert!(path.all(&object).len() <= VALUES_MAX);
    }

    // findings-2 K8
    #[test]
    fn paths_lead_to_values() {
        cov_mark::check!(findings_2_k8);
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}],
            "plain": ["a", "b", "c"], "flags": [true, false], "deep": {"n": "z"}}});
        let cases = [
            (r".spec['a.b']", json!([1])),
            (r".spec.a\.b", json!([1])),
            (".spec.list[1].v", json!([2])),
            (".spec.list[-1].v", json!([2])),
            (".spec.list[7].v", json!([])),
            (".spec.list[*].n", json!(["x", "y"])),
            (".spec.list[].n", json!(["x"])),
            (".spec.plain[1:]", json!(["b", "c"])),
            (".spec.plain[0:2]", json!(["a", "b"])),
            (".spec.plain[::2]", json!(["a", "c"])),
            (".spec.plain[-2:]", json!(["b", "c"])),
            (".spec.plain[0,2]", json!(["a", "c"])),
            (".spec['deep','none'].n", json!(["z"])),
            (".spec.deep.*", json!(["z"])),
            (r#".spec.list[?(@.n=="y")].v"#, json!([2])),
            (".spec.list[?(@.n=='y')].v", json!([2])),
            (r#".spec.plain[?(@ == "b")]"#, json!(["b"])),
            (r#".spec.plain[?(@ != "b")]"#, json!(["a", "c"])),
            (".spec.list[?(@.v>1)].n", json!(["y"])),
            (".spec.list[?(@.v <= 1)].n", json!(["x"])),
            (".spec.list[?(@.v)].n", json!(["x", "y"])),
            (".spec.list[?(@.w)].n", json!([])),
            (".spec.flags[?(@ == true)]", json!([true])),
            (".spec.list[?(@.n==1)].v", json!([])),
            ("{.spec.list[?(@.v==1)].n}", json!(["x"])),
            ("..n", json!(["x", "y", "z"])),
            (".spec...n", json!(["x", "y", "z"])),
            (".spec.list.[0].n", json!(["x"])),
            (".spec.none.at.all", json!([])),
        ];
        for (text, expected) in cases {
            let path = JsonPath::parse(text).unwrap_or_else(|| panic!("{text}"));
            let values: Vec<Value> = path.all(&object).into_iter().cloned().collect();
            assert_eq!(json!(values), expected, "{text}");
        }
        for text in [
            "",
            "spec",
            ".spec[",
            ".spec[?(@.x",
            ".",
            "....",
            ".a[x]",
            ".a[1:2:3:4]",
            ".a b",
            ".a[?(x)]",
        ] {
            assert_eq!(JsonPath::parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_set_at_plain_paths() {
        let mut object = json!({"spec": {"a": 1}});
        assert!(
            JsonPath::of_names(".spec.b.c")
                .unwrap()
                .set(&mut object, json!(2))
        );
        assert_eq!(object, json!({"spec": {"a": 1, "b": {"c": 2}}}));
        let mut path = |text| JsonPath::of_names(text).unwrap().set(&mut object, json!(2));
        assert!(!path(".spec.a.c"));
        assert!(path(".spec.d[0]"));
        assert_eq!(object["spec"]["d[0]"], 2);
    }
}
