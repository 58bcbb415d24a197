//! Names and their records, with counts, so that records can be removed again.

use std::collections::BTreeMap;

use crate::answer::Data;

/// Names in lower case without a final dot.
///
/// *Invariant*: if a name exists, all its parent names up to the domain exist, so that NODATA and NXDOMAIN can be
/// distinguished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    domain: String,
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// The number of additions of this name and of names below it.
    uses: u32,
    /// The records, each with the number of its additions; sorted.
    data: Vec<(Data, u32)>,
}

impl Node {
    /// The records of the name.
    pub(crate) fn data(&self) -> impl Iterator<Item = &Data> {
        self.data.iter().map(|(data, _)| data)
    }
}

impl Tree {
    pub(crate) fn new(domain: String) -> Tree {
        Tree {
            domain,
            nodes: BTreeMap::new(),
        }
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a name without records.
    pub(crate) fn add_name(&mut self, name: &str) {
        for name in with_names_above(name, &self.domain) {
            match self.nodes.get_mut(name) {
                Some(node) => node.uses += 1,
                None => {
                    let data = Vec::new();
                    self.nodes.insert(name.to_owned(), Node { uses: 1, data });
                }
            }
        }
    }

    /// Reverts one addition by [`Tree::add_name`].
    pub(crate) fn remove_name(&mut self, name: &str) {
        for name in with_names_above(name, &self.domain) {
            let Some(node) = self.nodes.get_mut(name) else {
                continue;
            };
            node.uses -= 1;
            if node.uses == 0 {
                self.nodes.remove(name);
            }
        }
    }

    /// Adds a record of a name.
    pub(crate) fn add(&mut self, name: &str, data: Data) {
        self.add_name(name);
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        match node
            .data
            .binary_search_by(|(present, _)| present.cmp(&data))
        {
            Ok(index) => node.data[index].1 += 1,
            Err(index) => node.data.insert(index, (data, 1)),
        }
    }

    /// Reverts one addition by [`Tree::add`].
    pub(crate) fn remove(&mut self, name: &str, data: &Data) {
        if let Some(node) = self.nodes.get_mut(name)
            && let Ok(index) = node.data.binary_search_by(|(present, _)| present.cmp(data))
        {
            node.data[index].1 -= 1;
            if node.data[index].1 == 0 {
                node.data.remove(index);
            }
        }
        self.remove_name(name);
    }
}

/// A name and, if it is in the domain, all its parent names down to the domain itself.
fn with_names_above<'a>(name: &'a str, domain: &str) -> impl Iterator<Item = &'a str> {
    let above = name.strip_suffix(domain);
    let dots = above.unwrap_or_default().match_indices('.');
    std::iter::once(name).chain(dots.map(|(dot, _)| &name[dot + 1..]))
}
