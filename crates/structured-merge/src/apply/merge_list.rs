//! The merge of lists whose elements have a key or are unique values.
//!
//! Common elements have the order of the applied list, elements of the live list alone keep their
//! positions between them, and new elements follow their predecessor of the applied list.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::Value;

use super::form::MergeForm;
use super::items;
use super::merge::merge as merge_values;
use super::path::PathElement;

/// `None` if neither list has elements, or one is no list, or has elements without a key.
pub(super) fn merge(
    form: MergeForm<'_>,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Option<Value> {
    let (live, applied) = (elements(form, live)?, elements(form, applied)?);
    if live.is_empty() && applied.is_empty() {
        return None;
    }
    let lists = Lists {
        form,
        wanted: applied.iter().cloned().collect(),
        present: unique(&live),
    };
    Some(Value::Array(lists.merge(&live, &applied)))
}

type Element<'v> = (PathElement<'v>, &'v Value);

fn elements<'v>(form: MergeForm<'v>, value: Option<&'v Value>) -> Option<Vec<Element<'v>>> {
    let list = match value {
        None | Some(Value::Null) => return Some(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return None,
    };
    list.iter()
        .map(|element| Some((items::step(&form, element).ok()?, element)))
        .collect()
}

/// The elements by their step; duplicates are not merged but replaced, and have no value here.
fn unique<'v>(list: &[Element<'v>]) -> BTreeMap<PathElement<'v>, Option<&'v Value>> {
    let mut found = BTreeMap::new();
    for (step, element) in list {
        found
            .entry(step.clone())
            .and_modify(|value| *value = None)
            .or_insert(Some(*element));
    }
    found
}

struct Lists<'v, 's> {
    form: MergeForm<'s>,
    /// The applied elements.
    wanted: BTreeMap<PathElement<'v>, &'v Value>,
    /// The live ones.
    present: BTreeMap<PathElement<'v>, Option<&'v Value>>,
}

impl<'v> Lists<'v, '_> {
    fn merge(&self, mut live: &[Element<'v>], mut applied: &[Element<'v>]) -> Vec<Value> {
        // The elements of both lists that are still to come, in the applied order.
        let mut shared = applied
            .iter()
            .map(|(step, _)| step)
            .filter(|step| self.present.contains_key(step))
            .peekable();
        let mut merged = Vec::with_capacity(live.len() + applied.len());
        let mut done: BTreeSet<&PathElement<'v>> = BTreeSet::new();
        while let Some(((step, element), rest)) = live.split_first() {
            let wanted = self.wanted.contains_key(step);
            if !wanted {
                merged.extend(merge_values(self.form.element(), Some(element), None));
                live = rest;
                continue;
            }
            // Out of order, or done already: the position in the applied list counts.
            if done.contains(step) || shared.peek().is_some_and(|next| *next != step) {
                live = rest;
                continue;
            }
            // Its turn, once the new elements in front of it are in.
            let Some(((next, _), after)) = applied.split_first() else {
                live = rest;
                continue;
            };
            merged.extend(self.applied(next));
            done.insert(next);
            applied = after;
            if shared.peek() == Some(&next) {
                shared.next();
            }
            if next == step {
                live = rest;
            }
        }
        merged.extend(applied.iter().filter_map(|(step, _)| self.applied(step)));
        merged
    }

    /// An applied element, merged with the live one of the same key.
    fn applied(&self, step: &PathElement<'v>) -> Option<Value> {
        let live = self.present.get(step).copied().flatten();
        merge_values(self.form.element(), live, self.wanted.get(step).copied())
    }
}
