//! `metadata.managedFields`: the managers of an object and their fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use json_text::Cursor;
use json_tree::{Map, Value, json};

use super::Writer;
use super::path::push_text;
use super::set::FieldSet;

/// Maximum number of managers with the operation Update. The oldest managers above it are merged into one.
const UPDATERS_MAX: usize = 10;
/// The name of the merged manager.
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

/// The identity of a manager in one entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager<'a> {
    pub name: Cow<'a, str>,
    pub operation: Operation,
    /// Empty for the operation Apply, because such a manager is the same manager in every version.
    pub api_version: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
}

impl<'a> Manager<'a> {
    /// The manager of a write.
    pub fn new(writer: &Writer<'a>, operation: Operation) -> Self {
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

/// The fields of a manager, and the version and time of its last write.
#[derive(Clone, Debug)]
pub(super) struct ManagerFields<'a> {
    fields: Fields<'a>,
    pub api_version: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
}

/// The fields of a manager. Most writes change few fields of few managers; the fields of other managers are not
/// parsed.
#[derive(Clone, Debug)]
enum Fields<'a> {
    /// The JSON text of `fieldsV1`.
    Encoded(Cow<'a, str>),
    Decoded(FieldSet<'a>),
}

impl<'a> Fields<'a> {
    fn decoded(&mut self) -> &mut FieldSet<'a> {
        if let Self::Encoded(text) = self {
            let set = match text {
                Cow::Borrowed(text) => FieldSet::from_fields_v1(text),
                Cow::Owned(text) => FieldSet::from_fields_v1(text).map(FieldSet::into_owned),
            };
            *self = Self::Decoded(set.unwrap_or_default());
        }
        match self {
            Self::Decoded(set) => set,
            Self::Encoded(_) => unreachable!("decoded just above"),
        }
    }
}

impl<'a> ManagerFields<'a> {
    pub fn new(fields: FieldSet<'a>, api_version: &'a str, now: &'a str) -> Self {
        Self {
            fields: Fields::Decoded(fields),
            api_version: api_version.into(),
            time: Some(now.into()),
        }
    }

    /// A manager's fields by the JSON text of `fieldsV1`.
    pub fn encoded(fields: &'a str, api_version: &'a str, now: &'a str) -> Self {
        Self {
            fields: Fields::Encoded(fields.into()),
            api_version: api_version.into(),
            time: Some(now.into()),
        }
    }

    pub fn fields(&mut self) -> &FieldSet<'a> {
        self.fields.decoded()
    }

    /// Replaces the fields that the manager owns.
    pub fn set_fields(&mut self, fields: FieldSet<'a>) {
        self.fields = Fields::Decoded(fields);
    }

    /// The fields in `fields` that the manager owns.
    pub fn shared(&mut self, fields: &FieldSet<'a>) -> FieldSet<'a> {
        match &self.fields {
            Fields::Encoded(encoded) if !fields.overlaps(encoded) => FieldSet::default(),
            _ => self.fields.decoded().intersection(fields),
        }
    }

    /// Removes fields from the fields that the manager owns.
    pub fn lose(&mut self, fields: &FieldSet<'a>) {
        match &self.fields {
            Fields::Encoded(encoded) if !fields.overlaps(encoded) => return,
            Fields::Encoded(encoded) => {
                if let Some(rest) = fields.removed_from(encoded) {
                    self.fields = Fields::Encoded(rest.into());
                    return;
                }
            }
            Fields::Decoded(_) => {}
        }
        let decoded = self.fields.decoded();
        *decoded = decoded.difference(fields);
    }

    /// Adds fields to the fields that the manager owns.
    pub fn gain(&mut self, fields: FieldSet<'a>) {
        match &self.fields {
            Fields::Encoded(encoded) if fields.is_within(encoded) => return,
            Fields::Encoded(encoded) => {
                if let Some(merged) = fields.merged_into(encoded) {
                    self.fields = Fields::Encoded(merged.into());
                    return;
                }
            }
            Fields::Decoded(_) => {}
        }
        let decoded = self.fields.decoded();
        *decoded = decoded.union(&fields);
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Encoded(text) => matches!(text.trim(), "{}" | "null"),
            Fields::Decoded(set) => set.is_empty(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Managers<'a>(pub BTreeMap<Manager<'a>, ManagerFields<'a>>);

impl<'a> Managers<'a> {
    /// Parses the text of `metadata.managedFields` from a client; `None` for an invalid list. A null
    /// is an empty list.
    pub fn decode(list: &'a str) -> Option<Self> {
        let mut managers = Self::stored(list)?;
        for entry in managers.0.values_mut() {
            if let Fields::Encoded(Cow::Borrowed(text)) = entry.fields {
                entry.fields = Fields::Decoded(FieldSet::from_fields_v1(text).ok()?);
            }
        }
        Some(managers)
    }

    /// Parses a stored list. The fields are parsed when they are needed.
    pub fn stored(list: &'a str) -> Option<Self> {
        let mut cursor = Cursor::new(list.as_bytes());
        if cursor.peek().ok()? == b'n' {
            return Some(Self::default());
        }
        let mut elements = cursor.array().ok()?;
        let mut managers = BTreeMap::new();
        while elements.next(&mut cursor).ok()? {
            let (manager, entry) = decode_entry(list, &mut cursor)?;
            managers.insert(manager, entry);
        }
        Some(Self(managers))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list as the JSON text of `metadata.managedFields`: managers with the operation Apply first, then by time.
    /// `None` for an empty list.
    pub fn encode(self) -> Option<String> {
        let mut entries: Vec<(Manager<'_>, ManagerFields<'_>)> = self.0.into_iter().collect();
        entries.sort_unstable_by(|(one, first), (two, second)| {
            let key = |manager: &Manager<'_>| manager.operation;
            (key(one), &first.time, &one.name)
                .cmp(&(key(two), &second.time, &two.name))
                .then_with(|| first.api_version.cmp(&second.api_version))
                .then_with(|| one.subresource.cmp(&two.subresource))
        });
        if entries.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(1024);
        for (index, (manager, entry)) in entries.iter().enumerate() {
            text.push(if index == 0 { '[' } else { ',' });
            encode_entry(&mut text, manager, entry);
        }
        text.push(']');
        Some(text)
    }

    /// Removes managers that own no field.
    pub fn forget_empty(&mut self) {
        self.0.retain(|_, entry| !entry.is_empty());
    }

    /// Merges the oldest updaters of a version until the maximum number is reached.
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
        updaters.sort_unstable();
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

    /// Moves the fields of `manager` to the merged manager, of which `oldest` is the first.
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

/// Reads the next entry in the text of a list.
fn decode_entry<'a>(
    list: &'a str,
    cursor: &mut Cursor<'a>,
) -> Option<(Manager<'a>, ManagerFields<'a>)> {
    let mut members = cursor.object().ok()?;
    let [
        mut name,
        mut operation,
        mut api_version,
        mut time,
        mut kind,
        mut subresource,
    ] = [const { Cow::Borrowed("") }; 6];
    let mut fields = "null";
    while let Some(key) = members.next_key(cursor).ok()? {
        let key = key.decode_in(list).ok()?;
        let text = match key.as_ref() {
            "manager" => &mut name,
            "operation" => &mut operation,
            "apiVersion" => &mut api_version,
            "time" => &mut time,
            "fieldsType" => &mut kind,
            "subresource" => &mut subresource,
            "fieldsV1" => {
                cursor.peek().ok()?;
                let start = cursor.offset();
                cursor.skip().ok()?;
                fields = list.get(start..cursor.offset())?;
                continue;
            }
            _ => {
                cursor.skip().ok()?;
                continue;
            }
        };
        *text = match cursor.peek().ok()? {
            b'"' => cursor.string().ok()?.decode_in(list).ok()?,
            _ => {
                cursor.skip().ok()?;
                Cow::Borrowed("")
            }
        };
    }
    let operation = match operation.as_ref() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    if api_version.is_empty() || kind != "FieldsV1" {
        return None;
    }
    let manager = Manager {
        name,
        operation,
        api_version: match operation {
            Operation::Apply => "".into(),
            Operation::Update => api_version.clone(),
        },
        subresource,
    };
    let entry = ManagerFields {
        fields: Fields::Encoded(fields.into()),
        api_version,
        time: Some(time).filter(|time| !time.is_empty()),
    };
    Some((manager, entry))
}

/// Appends an entry to the text of a list.
fn encode_entry(out: &mut String, manager: &Manager<'_>, entry: &ManagerFields<'_>) {
    let mut start = '{';
    for (name, value) in [
        ("manager", manager.name.as_ref()),
        ("operation", manager.operation.name()),
        ("apiVersion", &entry.api_version),
        ("time", entry.time.as_deref().unwrap_or_default()),
        ("fieldsType", "FieldsV1"),
        ("subresource", &manager.subresource),
    ] {
        if !value.is_empty() {
            out.push(start);
            push_text(out, name);
            out.push(':');
            push_text(out, value);
            start = ',';
        }
    }
    out.push_str(",\"fieldsV1\":");
    match &entry.fields {
        Fields::Encoded(text) => out.push_str(text),
        Fields::Decoded(set) => set.write_fields_v1(out),
    }
    out.push('}');
}

/// Whether a client resets the managers: a single empty entry. As upstream, an empty list has no effect, because clients
/// without managed fields in their types send it.
pub(super) fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => {
            cov_mark::hit!(findings_2_e11);
            false
        }
        Some([only]) => *only == json!({}),
        _ => false,
    }
}

/// Whether two lists of managers are equal except for their times.
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
