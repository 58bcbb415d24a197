//! The map against a list of pairs, over random changes of few and of many entries.

use json_tree::{Map, MapEntry, Value};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u32),
    ShiftInsert(u8, u8, u32),
    Enter(u8, u32),
    SwapRemove(u8),
    ShiftRemove(u8),
    RemoveEntry(u8, bool),
    Retain(u8),
    Sort,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..60_u8;
    prop_oneof![
        20 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        8 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Enter(key, value)),
        2 => (any::<u8>(), key.clone(), any::<u32>())
            .prop_map(|(position, key, value)| Step::ShiftInsert(position, key, value)),
        4 => key.clone().prop_map(Step::SwapRemove),
        4 => key.clone().prop_map(Step::ShiftRemove),
        2 => (key, any::<bool>()).prop_map(|(key, swap)| Step::RemoveEntry(key, swap)),
        1 => (2..9_u8).prop_map(Step::Retain),
        1 => Just(Step::Sort),
        1 => Just(Step::Clear),
    ]
}

fn name(key: u8) -> String {
    format!("key-{key}")
}

/// The same step on a list of pairs.
fn expect(list: &mut Vec<(String, u32)>, step: &Step) -> Option<u32> {
    let place_of = |list: &[(String, u32)], key: u8| {
        let name = name(key);
        list.iter().position(|(existing, _)| *existing == name)
    };
    match *step {
        Step::Insert(key, value) | Step::Enter(key, value) => match place_of(list, key) {
            Some(position) => Some(std::mem::replace(&mut list[position].1, value)),
            None => {
                list.push((name(key), value));
                None
            }
        },
        Step::ShiftInsert(at, key, value) => {
            let former = place_of(list, key).map(|position| list.remove(position).1);
            list.insert(at as usize % (list.len() + 1), (name(key), value));
            former
        }
        Step::SwapRemove(key) | Step::RemoveEntry(key, true) => {
            place_of(list, key).map(|position| list.swap_remove(position).1)
        }
        Step::ShiftRemove(key) | Step::RemoveEntry(key, false) => {
            place_of(list, key).map(|position| list.remove(position).1)
        }
        Step::Retain(part) => {
            list.retain(|(_, value)| value % u32::from(part) != 0);
            None
        }
        Step::Sort => {
            list.sort();
            None
        }
        Step::Clear => {
            list.clear();
            None
        }
    }
}

fn apply(map: &mut Map<String, u32>, step: &Step) -> Option<u32> {
    match *step {
        Step::Insert(key, value) => map.insert(name(key), value),
        Step::Enter(key, value) => match map.entry(name(key)) {
            MapEntry::Occupied(mut entry) => {
                assert_eq!(*entry.key(), name(key));
                Some(entry.insert(value))
            }
            MapEntry::Vacant(entry) => {
                assert_eq!(*entry.key(), name(key));
                assert_eq!(*entry.insert(value), value);
                None
            }
        },
        Step::ShiftInsert(at, key, value) => {
            let others = map.len() - usize::from(map.contains_key(&name(key)));
            map.shift_insert(at as usize % (others + 1), name(key), value)
        }
        Step::SwapRemove(key) => map.swap_remove(name(key).as_str()),
        Step::ShiftRemove(key) => map.shift_remove(name(key).as_str()),
        Step::RemoveEntry(key, swap) => match map.entry(name(key)) {
            MapEntry::Occupied(entry) if swap => Some(entry.swap_remove()),
            MapEntry::Occupied(entry) => Some(entry.shift_remove()),
            MapEntry::Vacant(_) => None,
        },
        Step::Retain(part) => {
            map.retain(|_, value| *value % u32::from(part) != 0);
            None
        }
        Step::Sort => {
            map.sort_keys();
            None
        }
        Step::Clear => {
            map.clear();
            None
        }
    }
}

proptest! {
    /// Same answers, order and look-ups, also across the length at which the index begins.
    #[test]
    fn a_map_is_a_list_of_pairs(steps in prop::collection::vec(step(), 0..200)) {
        let (mut map, mut list) = (Map::default(), Vec::new());
        for step in steps {
            prop_assert_eq!(apply(&mut map, &step), expect(&mut list, &step), "{:?}", step);
            prop_assert!(map.iter().eq(list.iter().map(|(key, value)| (key, value))), "{:?}", step);
            for key in 0..60 {
                let name = name(key);
                let existing = list.iter().find(|(existing, _)| *existing == name);
                prop_assert_eq!(map.get(&name), existing.map(|(_, value)| value), "{:?}", step);
            }
        }
        let mut turned: Map<String, u32> = list.iter().rev().cloned().collect();
        prop_assert_eq!(&turned, &map);
        prop_assert_eq!(&map.clone(), &map);
        turned.insert("other".to_owned(), 0);
        prop_assert_ne!(&turned, &map);
        prop_assert!(map.into_iter().eq(list));
    }
}

#[test]
fn maps_values_and_entries_are_small() {
    assert_eq!(size_of::<Map>(), 32);
    assert_eq!(size_of::<Value>(), 32);
    assert_eq!(size_of::<(String, Value)>(), 56);
}
