//! `metadata.managedFields`: the managers of an object and their fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Writer;
use super::set::FieldSet;

/// Maximum number of managers with the operation Update; the oldest beyond it are merged into one.
const UPDATERS_MAX: usize = 10;
/// The name under which they are.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A manager: one entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager<'a> {
    pub name: Cow<'a, str>,
    pub operation: Operation,
    /// Empty for appliers, which stay the same manager in another version.
    pub api_version: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
}

impl<'a> Manager<'a> {
    /// The manager that a writer is.
    pub fn of(writer: &Writer<'a>, operation: Operation) -> Self {
        let name = match writer.manager {
            "" => "unknown",
            name => name,
        };
        Self {
            name: name.into(),
            operation,
            api_version: match operation {
                Operation::Apply => "".into(),
                Operation::Update => writer.api_version.into(),
            },
            subresource: writer.subresource.into(),
        }
    }
}

/// The fields of a manager, the version of its last write, and the time.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    fields: Fields<'a>,
    pub api_version: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
}

/// The fields of a manager. Most writes touch few fields of few managers; the others stay unparsed.
#[derive(Clone, Debug)]
enum Fields<'a> {
    /// As `fieldsV1`.
    Encoded(Value),
    Decoded(FieldSet<'a>),
}

impl<'a> Fields<'a> {
    fn decoded(&mut self) -> &mut FieldSet<'a> {
        if let Self::Encoded(fields) = self {
            let set = FieldSet::from_fields_v1(fields).unwrap_or_default();
            *self = Self::Decoded(set.into_owned());
        }
        match self {
            Self::Decoded(set) => set,
            Self::Encoded(_) => unreachable!("decoded just above"),
        }
    }
}

impl<'a> Entry<'a> {
    pub fn new(fields: FieldSet<'a>, api_version: &'a str, now: &'a str) -> Self {
        Self {
            fields: Fields::Decoded(fields),
            api_version: api_version.into(),
            time: Some(now.into()),
        }
    }

    pub fn fields(&mut self) -> &FieldSet<'a> {
        self.fields.decoded()
    }

    /// Replaces its fields.
    pub fn own(&mut self, fields: FieldSet<'a>) {
        self.fields = Fields::Decoded(fields);
    }

    /// The fields that it owns, out of these.
    pub fn shared(&mut self, fields: &FieldSet<'a>) -> FieldSet<'a> {
        match &self.fields {
            Fields::Encoded(encoded) if !fields.overlaps(encoded) => FieldSet::default(),
            _ => self.fields.decoded().intersection(fields),
        }
    }

    /// Takes fields away.
    pub fn lose(&mut self, fields: &FieldSet<'a>) {
        match &self.fields {
            Fields::Encoded(encoded) if !fields.overlaps(encoded) => {}
            _ => {
                let own = self.fields.decoded();
                *own = own.difference(fields);
            }
        }
    }

    /// Adds fields.
    pub fn gain(&mut self, fields: FieldSet<'a>) {
        match &self.fields {
            Fields::Encoded(encoded) if fields.is_within(encoded) => {}
            _ => {
                let own = self.fields.decoded();
                *own = own.union(&fields);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Encoded(fields) => fields.as_object().is_none_or(Map::is_empty),
            Fields::Decoded(set) => set.is_empty(),
        }
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers<'a>(pub BTreeMap<Manager<'a>, Entry<'a>>);

impl<'a> Managers<'a> {
    /// Parses `metadata.managedFields` from a client; `None` for an invalid list. An absent list is
    /// empty.
    pub fn decode(list: Value) -> Option<Self> {
        let mut managers = Self::stored(list)?;
        for entry in managers.0.values_mut() {
            if let Fields::Encoded(fields) = &entry.fields {
                let set = FieldSet::from_fields_v1(fields).ok()?;
                entry.fields = Fields::Decoded(set.into_owned());
            }
        }
        Some(managers)
    }

    /// Parses a stored list: its fields are parsed when they are needed.
    pub fn stored(list: Value) -> Option<Self> {
        let list = match list {
            Value::Null => return Some(Self::default()),
            Value::Array(list) => list,
            _ => return None,
        };
        list.into_iter()
            .map(decode_entry)
            .collect::<Option<_>>()
            .map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list as `metadata.managedFields`; appliers first, then by time.
    pub fn encode(self) -> Value {
        let mut entries: Vec<(Manager<'_>, Entry<'_>)> = self.0.into_iter().collect();
        entries.sort_by(|(one, first), (two, second)| {
            let key = |manager: &Manager<'_>| manager.operation;
            (key(one), &first.time, &one.name)
                .cmp(&(key(two), &second.time, &two.name))
                .then_with(|| first.api_version.cmp(&second.api_version))
                .then_with(|| one.subresource.cmp(&two.subresource))
        });
        let encoded = entries
            .into_iter()
            .map(|(manager, entry)| encode_entry(manager, entry));
        Value::Array(encoded.collect())
    }

    /// Removes managers without fields.
    pub fn forget_empty(&mut self) {
        self.0.retain(|_, entry| !entry.is_empty());
    }

    /// Puts the oldest updaters of a version together until there are no more than allowed.
    pub fn cap(&mut self) {
        if self.0.len() <= UPDATERS_MAX {
            return;
        }
        let mut updaters: Vec<(String, Manager<'a>)> = self
            .0
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update)
            .map(|(manager, entry)| {
                let time = entry.time.as_deref().unwrap_or_default().to_owned();
                (time, manager.clone())
            })
            .collect();
        updaters.sort();
        let mut surplus = updaters.len().saturating_sub(UPDATERS_MAX);
        let mut first: BTreeMap<Cow<'a, str>, Manager<'a>> = BTreeMap::new();
        for (_, manager) in updaters {
            if surplus == 0 {
                return;
            }
            let version = manager.api_version.clone();
            match first.get(&version) {
                None => {
                    first.insert(version, manager);
                }
                Some(oldest) => {
                    self.join_ancient(&oldest.clone(), &manager);
                    surplus -= 1;
                }
            }
        }
    }

    /// Moves the fields of `manager` to the manager of merged old ones, of which `oldest` is the
    /// first.
    fn join_ancient(&mut self, oldest: &Manager<'a>, manager: &Manager<'a>) {
        let bucket = Manager {
            name: ANCIENT.into(),
            operation: Operation::Update,
            api_version: manager.api_version.clone(),
            subresource: "".into(),
        };
        if !self.0.contains_key(&bucket)
            && let Some(entry) = self.0.remove(oldest)
        {
            self.0.insert(bucket.clone(), entry);
        }
        if let Some(mut newer) = self.0.remove(manager)
            && let Some(entry) = self.0.get_mut(&bucket)
        {
            entry.gain(newer.fields().clone());
            entry.time = newer.time;
        }
    }
}

fn decode_entry<'a>(entry: Value) -> Option<(Manager<'a>, Entry<'a>)> {
    let Value::Object(mut entry) = entry else {
        return None;
    };
    let mut text = |field: &str| match entry.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let operation = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let api_version = text("apiVersion");
    if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
        return None;
    }
    let manager = Manager {
        name: text("manager").into(),
        operation,
        api_version: match operation {
            Operation::Apply => "".into(),
            Operation::Update => api_version.clone().into(),
        },
        subresource: text("subresource").into(),
    };
    let time = Some(text("time")).filter(|time| !time.is_empty());
    let fields = entry.get_mut("fieldsV1").map(Value::take);
    let entry = Entry {
        fields: Fields::Encoded(fields.unwrap_or_default()),
        api_version: api_version.into(),
        time: time.map(Cow::from),
    };
    Some((manager, entry))
}

fn encode_entry(manager: Manager<'_>, entry: Entry<'_>) -> Value {
    let mut encoded = Map::with_capacity(7);
    let mut set = |name: &str, value: Cow<'_, str>| {
        if !value.is_empty() {
            encoded.insert(name.to_owned(), Value::String(value.into_owned()));
        }
    };
    set("manager", manager.name);
    set("operation", manager.operation.name().into());
    set("apiVersion", entry.api_version);
    set("time", entry.time.unwrap_or_default());
    set("fieldsType", "FieldsV1".into());
    set("subresource", manager.subresource);
    let fields = match entry.fields {
        Fields::Encoded(fields) => fields,
        Fields::Decoded(set) => set.to_fields_v1(),
    };
    encoded.insert("fieldsV1".to_owned(), fields);
    Value::Object(encoded)
}

/// Whether a client asks for the managers to be forgotten: an empty list, or one empty entry.
pub(super) fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => *only == json!({}),
        _ => false,
    }
}

/// Whether two lists of managers are equal apart from their times.
pub fn same_but_for_times(one: &Value, two: &Value) -> bool {
    let (one, two) = (list(one), list(two));
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| same_entry(one, two))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn same_entry(one: &Value, two: &Value) -> bool {
    let (Value::Object(one), Value::Object(two)) = (one, two) else {
        return one == two;
    };
    let timeless =
        |entry: &Map<String, Value>| entry.len() - usize::from(entry.contains_key("time"));
    timeless(one) == timeless(two)
        && one
            .iter()
            .all(|(name, value)| name == "time" || two.get(name) == Some(value))
}
