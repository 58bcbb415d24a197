//! The merge of lists whose elements have a key or are unique values.
//!
//! Elements of both lists have the order of the applied list, elements of only the live list keep their positions
//! between them, and new elements follow their predecessor in the applied list.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::Value;

use super::form::MergeForm;
use super::items;
use super::merge::merge as merge_values;
use super::path::PathElement;

/// `None` if neither list has elements, or a value is not a list or has elements without a key.
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
        desired: applied.iter().cloned().collect(),
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

/// The elements by step. Duplicates are replaced, not merged; their value here is `None`.
fn unique<'v>(list: &[Element<'v>]) -> BTreeMap<PathElement<'v>, Option<&'v Value>> {
    let mut elements = BTreeMap::new();
    for (step, element) in list {
        elements
            .entry(step.clone())
            .and_modify(|value| *value = None)
            .or_insert(Some(*element));
    }
    elements
}

struct Lists<'v, 's> {
    form: MergeForm<'s>,
    /// The applied elements.
    desired: BTreeMap<PathElement<'v>, &'v Value>,
    /// The live elements.
    present: BTreeMap<PathElement<'v>, Option<&'v Value>>,
}

impl<'v> Lists<'v, '_> {
    fn merge(&self, mut live: &[Element<'v>], mut applied: &[Element<'v>]) -> Vec<Value> {
        // The remaining elements of both lists, in the applied order.
        let mut shared = applied
            .iter()
            .map(|(step, _)| step)
            .filter(|step| self.present.contains_key(step))
            .peekable();
        let mut merged = Vec::with_capacity(live.len() + applied.len());
        let mut done: BTreeSet<&PathElement<'v>> = BTreeSet::new();
        while let Some(((step, element), rest)) = live.split_first() {
            let is_applied = self.desired.contains_key(step);
            if !is_applied {
                merged.extend(merge_values(self.form.element(), Some(element), None));
                live = rest;
                continue;
            }
            // The element is not in the applied order, or was added already: its position in the applied list counts.
            if done.contains(step) || shared.peek().is_some_and(|next| *next != step) {
                live = rest;
                continue;
            }
            // The element is next, after the new elements in front of it.
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

    /// An applied element, merged with the live element that has the same key.
    fn applied(&self, step: &PathElement<'v>) -> Option<Value> {
        let live = self.present.get(step).copied().flatten();
        merge_values(self.form.element(), live, self.desired.get(step).copied())
    }
}
