//! Mutates inputs: bytes, words and numbers are changed, and in JSON whole values.

use std::path::Path;

use anyhow::{Context, Result};
use json_tree::{Map, Value, json};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::targets::Target;

/// Longer inputs are cut, because the server has such a bound too.
const BYTES_MAX: usize = 256 * 1024;

const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "127",
    "255",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "0.1e-400",
];
const BYTES: [u8; 12] = [
    0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'[', b'\n', b'%', b'$',
];

/// Builds the inputs of a target.
pub struct Maker {
    /// Earlier findings; tried unchanged.
    findings: Vec<Vec<u8>>,
    seeds: Vec<Vec<u8>>,
    trees: Vec<Value>,
    words: &'static [&'static str],
}

impl Maker {
    pub fn new(target: &Target) -> Result<Self> {
        let mut seeds: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
        let trees = seeds
            .iter()
            .filter_map(|seed| serde_json::from_slice(seed).ok())
            .collect();
        let findings = findings(target.name)?;
        seeds.extend(findings.iter().cloned());
        Ok(Self {
            findings,
            seeds,
            trees,
            words: target.words,
        })
    }

    /// The number of earlier findings.
    pub fn findings(&self) -> u64 {
        self.findings.len() as u64
    }

    /// The input with that number.
    pub fn input(&self, seed: u64, iteration: u64) -> Vec<u8> {
        if let Some(finding) = usize::try_from(iteration)
            .ok()
            .and_then(|at| self.findings.get(at))
        {
            return finding.clone();
        }
        let mut random =
            StdRng::seed_from_u64(seed ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut input = match self.trees.choose(&mut random) {
            Some(tree) if random.random_ratio(2, 3) => {
                let mut tree = tree.clone();
                for _ in 0..random.random_range(1..=4) {
                    let other = self.trees.choose(&mut random).unwrap_or(&Value::Null);
                    self.change_tree(&mut tree, other, &mut random);
                }
                let text = tree.to_string().into_bytes();
                if random.random_ratio(3, 4) {
                    return text;
                }
                text
            }
            _ => self.seeds.choose(&mut random).cloned().unwrap_or_default(),
        };
        for _ in 0..random.random_range(1..=5) {
            self.change_bytes(&mut input, &mut random);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change_bytes(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 64));
        let insert = |input: &mut Vec<u8>, bytes: &[u8]| {
            input.splice(at..at, bytes.iter().copied());
        };
        match random.random_range(0..11) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            1 => insert(input, &[random.random()]),
            2 => insert(input, &[BYTES[random.random_range(0..BYTES.len())]]),
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            5 => {
                // Repetition: deep nesting, long names, many elements.
                let part = input[at..end].to_vec();
                let times = 1 << random.random_range(0..14);
                let repetitions = BYTES_MAX / part.len().max(1);
                insert(input, &part.repeat(times.min(repetitions)));
            }
            6 => {
                let other = self.seeds.choose(random).cloned().unwrap_or_default();
                let from = random.random_range(0..=other.len());
                let until = random.random_range(from..=other.len());
                insert(input, &other[from..until]);
            }
            7 => insert(
                input,
                NUMBERS[random.random_range(0..NUMBERS.len())].as_bytes(),
            ),
            8 => {
                if let Some(word) = self.words.choose(random) {
                    insert(input, word.as_bytes());
                }
            }
            9 => {
                if let Some(word) = self.words.choose(random) {
                    input.splice(at..end, word.bytes());
                }
            }
            _ => insert(
                input,
                ["é", "\u{0}", "💥", "\u{202e}", "ß"][random.random_range(0..5)].as_bytes(),
            ),
        }
    }

    fn change_tree(&self, tree: &mut Value, other: &Value, random: &mut StdRng) {
        let mut position = random.random_range(0..size(tree));
        let mut from = random.random_range(0..size(other));
        let word = self.words.choose(random).copied().unwrap_or("x");
        let mut donor = nth(other, &mut from).cloned().unwrap_or_default();
        let kind = random.random_range(0..10);
        let number: Value =
            serde_json::from_str(NUMBERS[random.random_range(0..10)]).unwrap_or_default();
        let times = 1 << random.random_range(0..10);
        let pick = random.random_range(0..usize::MAX);
        let Some(value) = nth_mut(tree, &mut position) else {
            return;
        };
        match (kind, value) {
            (0, value) => std::mem::swap(value, &mut donor),
            (1, value) => *value = Value::Null,
            (2, value) => *value = number,
            (3, value) => *value = word.into(),
            (4, value) => *value = word.repeat(times).into(),
            (5, value) => *value = (0..times % 100).fold(value.clone(), |inner, _| json!([inner])),
            (_, Value::Array(list)) if !list.is_empty() => {
                let at = pick % list.len();
                let element = list[at].clone();
                match kind {
                    6 => drop(list.remove(at)),
                    7 => list.extend(std::iter::repeat_n(element, times)),
                    8 => list.insert(at, donor),
                    _ => list.reverse(),
                }
            }
            (_, Value::Object(map)) if !map.is_empty() => {
                let name = map
                    .keys()
                    .nth(pick % map.len())
                    .cloned()
                    .unwrap_or_default();
                match kind {
                    6 => drop(map.shift_remove(&name)),
                    7 => drop(map.insert(word.to_owned(), donor)),
                    8 => {
                        let renamed = map.shift_remove(&name).unwrap_or_default();
                        map.insert(word.to_owned(), renamed);
                    }
                    _ => map.extend((0..times).map(|at| (format!("{word}{at}"), donor.clone()))),
                }
            }
            (_, Value::String(text)) => text.push_str(word),
            (_, value) => *value = Value::Object(Map::from_iter([(word.to_owned(), donor)])),
        }
    }
}

/// The inputs in a target's folder, in the order of their names.
fn findings(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort_unstable();
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).with_context(|| format!("read {}", path.display()))
    };
    paths.iter().map(read).collect()
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The number of values in a tree.
fn size(value: &Value) -> usize {
    1 + children(value).map(size).sum::<usize>()
}

/// The value at position `before` in the order of a traversal.
fn nth<'v>(value: &'v Value, before: &mut usize) -> Option<&'v Value> {
    if *before == 0 {
        return Some(value);
    }
    *before -= 1;
    children(value).find_map(|child| nth(child, before))
}

fn nth_mut<'v>(value: &'v mut Value, before: &mut usize) -> Option<&'v mut Value> {
    if *before == 0 {
        return Some(value);
    }
    *before -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|child| nth_mut(child, before)),
        Value::Object(map) => map.values_mut().find_map(|child| nth_mut(child, before)),
        _ => None,
    }
}
