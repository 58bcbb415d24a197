//! Queries of types, for patches and server-side apply.

use crate::facts::{Facts, ListType, MapType};
use crate::graph::{Definition, Field, Graph, Node};

/// The kind of a type's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any value, of unknown structure.
    Any,
    /// One indivisible value.
    Scalar,
    /// An object with known fields.
    Object,
    List,
    /// A map from arbitrary keys.
    Map,
}

/// A type in the schema graph.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef<'s> {
    graph: &'s Graph,
    target: Target<'s>,
}

#[derive(Clone, Copy, Debug)]
enum Target<'s> {
    Definition(&'s Definition),
    Node(Node),
}

impl<'s> TypeRef<'s> {
    pub(crate) fn of_definition(graph: &'s Graph, definition: &'s Definition) -> Self {
        Self {
            graph,
            target: Target::Definition(definition),
        }
    }

    fn of_node(graph: &'s Graph, node: Node) -> Self {
        let location = match node {
            Node::Definition(index) => match graph.definition(index) {
                Some(definition) => Target::Definition(definition),
                None => Target::Node(node),
            },
            _ => Target::Node(node),
        };
        Self {
            graph,
            target: location,
        }
    }

    /// The kind of the value.
    pub fn shape(&self) -> Shape {
        match self.target {
            Target::Definition(_) => Shape::Object,
            Target::Node(Node::Any | Node::Definition(_)) => Shape::Any,
            Target::Node(Node::Scalar) => Shape::Scalar,
            Target::Node(Node::List(_)) => Shape::List,
            Target::Node(Node::Map(_)) => Shape::Map,
        }
    }

    /// The name of an object's definition, for instance `io.k8s.api.core.v1.PodSpec`.
    pub fn definition_name(&self) -> Option<&'s str> {
        match self.target {
            Target::Definition(definition) => Some(self.graph.text(definition.name)),
            Target::Node(_) => None,
        }
    }

    /// The named field of an object; `None` for other shapes and unknown fields.
    pub fn field(&self, name: &str) -> Option<FieldRef<'s>> {
        match self.target {
            Target::Definition(definition) => {
                let field = self.graph.field(definition, name)?;
                Some(FieldRef {
                    graph: self.graph,
                    field,
                })
            }
            Target::Node(_) => None,
        }
    }

    /// All fields of an object, sorted by name; empty for other shapes.
    pub fn fields(&self) -> impl Iterator<Item = FieldRef<'s>> + use<'s> {
        let graph = self.graph;
        let fields: &'s [Field] = match self.target {
            Target::Definition(definition) => graph.fields(definition),
            Target::Node(_) => &[],
        };
        fields.iter().map(move |field| FieldRef { graph, field })
    }

    /// The type of a list's elements or of a map's values.
    pub fn element(&self) -> Option<TypeRef<'s>> {
        match self.target {
            Target::Node(Node::List(element) | Node::Map(element)) => {
                let element = self.graph.element(element);
                Some(Self::of_node(self.graph, element))
            }
            _ => None,
        }
    }

    /// Whether the type belongs to a custom kind, and comes from its definition.
    pub fn is_custom(&self) -> bool {
        self.graph.is_custom()
    }

    /// Whether objects of this type have a single owner (`x-kubernetes-map-type`).
    pub fn map_type(&self) -> Option<MapType> {
        match self.target {
            Target::Definition(definition) => self.graph.facts(definition.facts).map_type,
            Target::Node(_) => None,
        }
    }
}

/// A field of an object type.
#[derive(Clone, Copy, Debug)]
pub struct FieldRef<'s> {
    graph: &'s Graph,
    field: &'s Field,
}

impl<'s> FieldRef<'s> {
    /// The JSON name.
    pub fn name(&self) -> &'s str {
        self.graph.text(self.field.name)
    }

    pub fn type_ref(&self) -> TypeRef<'s> {
        TypeRef::of_node(self.graph, self.field.node)
    }

    /// Whether a strategic merge patch merges the list instead of replacing it.
    pub fn merges(&self) -> bool {
        self.strategy("merge")
    }

    /// Whether a strategic merge patch replaces the field as a whole.
    pub fn replaces(&self) -> bool {
        self.strategy("replace")
    }

    /// Whether a strategic merge patch from a client contains the list of keys to retain (`$retainKeys`).
    pub fn retains_keys(&self) -> bool {
        self.strategy("retainKeys")
    }

    /// The field by which a strategic merge patch identifies the elements of the list.
    pub fn merge_key(&self) -> Option<&'static str> {
        Some(self.facts().patch_merge_key).filter(|key| !key.is_empty())
    }

    /// `x-kubernetes-list-type`, if published.
    pub fn list_type(&self) -> Option<ListType> {
        self.facts().list_type
    }

    /// `x-kubernetes-list-map-keys`.
    pub fn list_map_keys(&self) -> impl Iterator<Item = &'s str> + use<'s> {
        self.facts()
            .list_map_keys
            .split(',')
            .filter(|key| !key.is_empty())
    }

    /// `x-kubernetes-map-type` of the field, or of its type.
    pub fn map_type(&self) -> Option<MapType> {
        self.facts().map_type.or_else(|| self.type_ref().map_type())
    }

    /// Whether every object of the type must contain the field.
    pub fn is_required(&self) -> bool {
        self.field.required
    }

    /// Whether the field contains a structure that every object has, even if it is empty.
    pub fn is_always_there(&self) -> bool {
        self.facts().default == "{}"
    }

    /// The default of a key field of a list (`TCP` for `protocol`).
    pub fn key_default(&self) -> Option<&'s str> {
        Some(&*self.facts().default).filter(|default| !matches!(*default, "" | "{}"))
    }

    fn facts(&self) -> &'s Facts {
        self.graph.facts(self.field.facts)
    }

    fn strategy(&self, name: &str) -> bool {
        self.facts()
            .patch_strategy
            .split(',')
            .any(|strategy| strategy == name)
    }
}
