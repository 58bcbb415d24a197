//! The types as a compact graph: field names, shapes and merge facts, without descriptions.
//!
//! Types refer to one another by index. The published types are constants from the build script: they are in the
//! program's file, and nothing is computed at the start. The graph of a custom kind contains only its own types;
//! their indices follow the indices of the published types.

use std::borrow::Cow;

use crate::facts::Facts;

mod published {
    use std::borrow::Cow;

    use super::{Definition, Field, Kind, Node, Text};
    use crate::facts::{Facts, ListType, MapType};

    include!(concat!(env!("OUT_DIR"), "/published.rs"));
}

/// A range in the common text of all names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    start: u32,
    length: u32,
}

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node {
    /// Any value: raw extensions, field sets, JSON.
    Any,
    /// A string, number, boolean, quantity, time or similar value.
    Scalar,
    /// The definition with this index.
    Definition(u32),
    /// A list. The number is the index of the type of its elements.
    List(u32),
    /// A map with any keys. The number is the index of the type of its values.
    Map(u32),
}

/// A field of a definition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub name: Text,
    pub node: Node,
    /// Whether every object of the type must contain the field.
    pub required: bool,
    /// The index of the facts.
    pub facts: u32,
}

/// A definition with at most this number of fields is searched from its first field on.
const SEARCHED_FIELDS_MAX: usize = 48;

/// A field of any name and type.
static OTHER: Field = Field {
    name: Text {
        start: 0,
        length: 0,
    },
    node: Node::Any,
    required: false,
    facts: NO_FACTS,
};

/// The index of the facts of a field without facts.
pub(crate) const NO_FACTS: u32 = 0;

/// An object type with fields. Types without structure (times, quantities) have no definition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    pub name: Text,
    /// The index of the first field. The fields are sorted by name.
    first: u32,
    /// The number of fields.
    count: u32,
    /// Whether fields with other names are allowed.
    open: bool,
    /// The index of the facts.
    pub facts: u32,
}

/// A kind and its type.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Group, version and kind.
    name: [Text; 3],
    definition: u32,
}

/// All types, and the type of each kind.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Sorted by name.
    kinds: Cow<'static, [Kind]>,
    texts: String,
    facts: Vec<Facts>,
    nodes: Vec<Node>,
    fields: Vec<Field>,
    definitions: Vec<Definition>,
}

impl Graph {
    pub const PUBLISHED: Self = Self::of(&published::KINDS);

    /// The graph of all known kinds.
    pub fn published() -> &'static Self {
        static GRAPH: Graph = Graph::PUBLISHED;
        &GRAPH
    }

    /// Whether the graph belongs to a custom kind.
    pub fn is_custom(&self) -> bool {
        matches!(self.kinds, Cow::Owned(_))
    }

    const fn of(kinds: &'static [Kind]) -> Self {
        Self {
            kinds: Cow::Borrowed(kinds),
            texts: String::new(),
            facts: Vec::new(),
            nodes: Vec::new(),
            fields: Vec::new(),
            definitions: Vec::new(),
        }
    }

    /// A graph of types, until [`add_kind`](Self::add_kind) is called.
    pub fn without_kinds() -> Self {
        Self::of(&[])
    }

    /// The definition of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Definition> {
        let requested = [group, version, kind];
        // The lengths of the names distinguish nearly all kinds.
        let has_lengths = |candidate: &&Kind| {
            let mut words = candidate.name.iter().zip(requested);
            words.all(|(name, word)| name.length as usize == word.len())
        };
        let mut same_lengths = self.kinds.iter().filter(has_lengths);
        let matching =
            same_lengths.find(|candidate| candidate.name.map(|word| self.text(word)) == requested);
        self.definition(matching?.definition)
    }

    /// Group, version and kind of all kinds, each with its definition.
    pub fn kinds(&self) -> impl Iterator<Item = ([&str; 3], &Definition)> {
        self.kinds.iter().filter_map(|kind| {
            let name = kind.name.map(|word| self.text(word));
            Some((name, self.definition(kind.definition)?))
        })
    }

    pub fn definition(&self, index: u32) -> Option<&Definition> {
        one(&published::DEFINITIONS, &self.definitions, index)
    }

    /// The index of a published definition; `None` if no definition has the name.
    pub fn published_index(&self, name: &str) -> Option<u32> {
        let index = published::DEFINITIONS
            .binary_search_by(|definition| self.text(definition.name).cmp(name));
        u32::try_from(index.ok()?).ok()
    }

    /// The definition that is published under `name`, for instance `io.k8s.api.core.v1.Pod`.
    pub fn definition_named(&self, name: &str) -> Option<&Definition> {
        self.definition(self.published_index(name)?)
    }

    /// The named fields of a definition, sorted by name.
    pub fn fields(&self, definition: &Definition) -> &[Field] {
        let (first, count) = (definition.first as usize, definition.count as usize);
        let (table, first) = match first.checked_sub(published::FIELDS.len()) {
            None => (&published::FIELDS[..], first),
            Some(first) => (&self.fields[..], first),
        };
        table.get(first..first + count).unwrap_or_default()
    }

    pub fn field(&self, definition: &Definition, name: &str) -> Option<&Field> {
        let fields = self.fields(definition);
        // In a short list of fields, the lengths distinguish nearly all names.
        let named = if fields.len() <= SEARCHED_FIELDS_MAX {
            let has_length = |field: &&Field| field.name.length as usize == name.len();
            let mut same_length = fields.iter().filter(has_length);
            same_length.find(|field| self.text(field.name) == name)
        } else {
            let position = fields.binary_search_by(|field| self.text(field.name).cmp(name));
            position.ok().map(|index| &fields[index])
        };
        named.or_else(|| definition.open.then_some(&OTHER))
    }

    /// The type of a list's elements or of a map's values.
    pub fn element(&self, index: u32) -> Node {
        let node = one(&published::NODES, &self.nodes, index);
        node.copied().unwrap_or(Node::Any)
    }

    pub fn facts(&self, index: u32) -> &Facts {
        one(&published::FACTS, &self.facts, index).unwrap_or(&published::FACTS[0])
    }

    pub fn text(&self, text: Text) -> &str {
        let (start, length) = (text.start as usize, text.length as usize);
        let (texts, start) = match start.checked_sub(published::TEXTS.len()) {
            None => (published::TEXTS, start),
            Some(start) => (self.texts.as_str(), start),
        };
        texts.get(start..start + length).unwrap_or_default()
    }

    /// Adds the only kind, and its type.
    pub fn add_kind(&mut self, name: [&str; 3], definition: u32) {
        let name = name.map(|word| self.add_text(word));
        self.kinds = Cow::Owned(vec![Kind { name, definition }]);
    }

    pub fn add_text(&mut self, text: &str) -> Text {
        let start = index(published::TEXTS.len() + self.texts.len());
        self.texts.push_str(text);
        Text {
            start,
            length: index(text.len()),
        }
    }

    pub fn add_facts(&mut self, facts: Facts) -> u32 {
        if facts == Facts::default() {
            return NO_FACTS;
        }
        add(&published::FACTS, &mut self.facts, facts)
    }

    pub fn add_element(&mut self, element: Node) -> u32 {
        add(&published::NODES, &mut self.nodes, element)
    }

    /// Adds a definition without a name. `open` is whether fields with other names are allowed.
    pub fn add_definition(&mut self, mut fields: Vec<Field>, open: bool, facts: u32) -> u32 {
        fields.sort_unstable_by(|one, other| self.text(one.name).cmp(self.text(other.name)));
        let definition = Definition {
            name: OTHER.name,
            first: index(published::FIELDS.len() + self.fields.len()),
            count: index(fields.len()),
            open,
            facts,
        };
        self.fields.append(&mut fields);
        add(&published::DEFINITIONS, &mut self.definitions, definition)
    }
}

fn one<'g, T>(published: &'static [T], custom: &'g [T], index: u32) -> Option<&'g T> {
    let index = index as usize;
    match index.checked_sub(published.len()) {
        None => published.get(index),
        Some(index) => custom.get(index),
    }
}

fn add<T>(published: &'static [T], custom: &mut Vec<T>, new: T) -> u32 {
    custom.push(new);
    index(published.len() + custom.len() - 1)
}

/// The index of a table entry. The largest number is never valid, because no table has that many entries.
fn index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
