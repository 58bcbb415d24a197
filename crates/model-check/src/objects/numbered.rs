//! Values by number: the small state has the number of a value in place of the value.

use std::collections::HashMap;
use std::sync::RwLock;

use serde::Serialize;

/// The values that have occurred, by number.
pub struct Numbered<T> {
    by_number: RwLock<(HashMap<String, u16>, Vec<T>)>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            by_number: RwLock::default(),
        }
    }
}

impl<T: Clone + Serialize> Numbered<T> {
    /// The value with that number.
    pub fn get(&self, number: u16) -> T {
        let values = self.by_number.read().expect("no panic");
        values.1[usize::from(number)].clone()
    }

    /// The number of a value; equal values have one number.
    pub fn number(&self, value: T) -> u16 {
        let text = serde_json::to_string(&value).expect("the value is JSON");
        let mut values = self.by_number.write().expect("no panic");
        if let Some(number) = values.0.get(&text) {
            return *number;
        }
        let number = u16::try_from(values.1.len()).expect("not so many values");
        values.0.insert(text, number);
        values.1.push(value);
        number
    }
}
