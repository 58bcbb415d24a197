//! Sets of fields: trees of steps, in which a node may be a member, lead to members, or both.

use std::cmp::Ordering;

use super::path::PathElement;

/// A set of fields of one object.
///
/// The ownership of a field does not include the fields below it: a set with `.metadata.labels` and
/// `.metadata.labels.a` has two members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet<'a> {
    /// Sorted by step, without duplicates. Each node leads to at least one member.
    nodes: Vec<Node<'a>>,
}

/// A step that is a member of the set, or leads to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    pub step: PathElement<'a>,
    pub member: bool,
    pub below: FieldSet<'a>,
}

impl<'a> FieldSet<'a> {
    /// A set of nodes in any order. Duplicates are merged, empty nodes are removed.
    pub(crate) fn from_nodes(mut nodes: Vec<Node<'a>>) -> Self {
        nodes.retain(|node| node.member || !node.below.is_empty());
        if !nodes.is_sorted_by(|earlier, later| earlier.step < later.step) {
            nodes.sort_unstable_by(|left, right| left.step.cmp(&right.step));
            nodes.dedup_by(|later, earlier| {
                let same = later.step == earlier.step;
                if same {
                    earlier.member |= later.member;
                    let below = std::mem::take(&mut earlier.below);
                    earlier.below = below.joined(std::mem::take(&mut later.below));
                }
                same
            });
        }
        Self { nodes }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combined(other, &|mine, theirs| match (mine, theirs) {
            (Some(mine), Some(theirs)) => Some(Node {
                step: mine.step.clone(),
                member: mine.member || theirs.member,
                below: mine.below.union(&theirs.below),
            }),
            (one, two) => one.or(two).cloned(),
        })
    }

    /// The union of both sets, without copying either set.
    #[must_use]
    pub(crate) fn joined(mut self, other: Self) -> Self {
        self.nodes.extend(other.nodes);
        Self::from_nodes(self.nodes)
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combined(other, &|mine, theirs| {
            let (mine, theirs) = (mine?, theirs?);
            Some(Node {
                step: mine.step.clone(),
                member: mine.member && theirs.member,
                below: mine.below.intersection(&theirs.below),
            })
        })
    }

    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combined(other, &|mine, theirs| match (mine?, theirs) {
            (mine, None) => Some(mine.clone()),
            (mine, Some(theirs)) => Some(Node {
                step: mine.step.clone(),
                member: mine.member && !theirs.member,
                below: mine.below.difference(&theirs.below),
            }),
        })
    }

    /// Visits each step of both sets once.
    fn combined(&self, other: &Self, choose: &Choose<'a>) -> Self {
        let (mut mine, mut theirs) = (self.nodes.as_slice(), other.nodes.as_slice());
        let mut nodes = Vec::new();
        loop {
            let order = match (mine.first(), theirs.first()) {
                (Some(one), Some(two)) => one.step.cmp(&two.step),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            let one = if order.is_le() { pop(&mut mine) } else { None };
            let two = if order.is_ge() {
                pop(&mut theirs)
            } else {
                None
            };
            nodes.extend(choose(one, two).filter(|node| node.member || !node.below.is_empty()));
        }
    }

    /// Whether the other set contains all members of this set.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.nodes.iter().all(|mine| {
            let Some(theirs) = other.node(&mine.step) else {
                return false;
            };
            (theirs.member || !mine.member) && mine.below.is_subset(&theirs.below)
        })
    }

    /// Retains only the top-level fields for which `predicate` returns true, with all fields below them.
    pub(crate) fn retain_top(&mut self, predicate: impl Fn(&str) -> bool) {
        self.nodes.retain(|node| match &node.step {
            PathElement::Field(name) => predicate(name),
            _ => true,
        });
    }

    /// Removes the members for which `predicate` returns false; members below them stay.
    pub(crate) fn retain_members(&mut self, predicate: impl Fn(&str) -> bool) {
        for node in &mut self.nodes {
            if let PathElement::Field(name) = &node.step {
                node.member &= predicate(name);
            }
        }
        self.nodes
            .retain(|node| node.member || !node.below.is_empty());
    }

    /// The set below a top-level field.
    pub(crate) fn below_mut(&mut self, field: &str) -> Option<&mut Self> {
        let here =
            |node: &&mut Node<'a>| matches!(&node.step, PathElement::Field(name) if name == field);
        self.nodes.iter_mut().find(here).map(|node| &mut node.below)
    }

    pub(crate) fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    pub(crate) fn node(&self, step: &PathElement<'_>) -> Option<&Node<'a>> {
        let position = self.nodes.binary_search_by(|node| node.step.cmp(step));
        position.ok().map(|index| &self.nodes[index])
    }

    /// The paths of all members as text; at each level, the members of that level are first.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.write_paths("", &mut paths);
        paths
    }

    fn write_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for node in self.nodes.iter().filter(|node| node.member) {
            paths.push(format!("{prefix}{}", node.step));
        }
        for node in self.nodes.iter().filter(|node| !node.below.is_empty()) {
            node.below
                .write_paths(&format!("{prefix}{}", node.step), paths);
        }
    }

    /// A copy without borrowed data.
    pub(crate) fn into_owned(self) -> FieldSet<'static> {
        FieldSet {
            nodes: self
                .nodes
                .into_iter()
                .map(|node| Node {
                    step: node.step.into_owned(),
                    member: node.member,
                    below: node.below.into_owned(),
                })
                .collect(),
        }
    }
}

/// The combination of the nodes of two sets for one step.
type Choose<'a> = dyn Fn(Option<&Node<'a>>, Option<&Node<'a>>) -> Option<Node<'a>>;

fn pop<'n, 'a>(nodes: &mut &'n [Node<'a>]) -> Option<&'n Node<'a>> {
    let (first, rest) = nodes.split_first()?;
    *nodes = rest;
    Some(first)
}
