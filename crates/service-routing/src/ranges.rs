//! Sets of addresses as ranges. One lookup in the kernel replaces one comparison for each block and exception.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;

use crate::model::{Member, Set, SetKind, Table};

/// The first and the last address of a range; wider than an address, so that the number after the last address is
/// valid.
type Range = (u64, u64);

/// The addresses of blocks, each without its exceptions, in ranges that neither overlap nor touch.
pub(crate) fn members<'b>(
    blocks: impl IntoIterator<Item = (Cidr, &'b [Cidr])>,
) -> BTreeSet<Member> {
    let mut all = Vec::new();
    for (block, except) in blocks {
        let except = merged(except.iter().copied().map(range).collect());
        all.extend(without(range(block), &except));
    }
    let address = |number: u64| Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX));
    let members = merged(all).into_iter();
    members
        .map(|(first, last)| Member::Range(address(first), address(last)))
        .collect()
}

/// Whether one of the ranges contains the address.
pub(crate) fn contain(members: &BTreeSet<Member>, address: Ipv4Addr) -> bool {
    let up_to = Member::Range(address, Ipv4Addr::BROADCAST);
    let nearest = members.range(..=up_to).next_back();
    matches!(nearest, Some(Member::Range(first, last)) if (*first..=*last).contains(&address))
}

/// Adds a set of ranges, and returns its name: `prefix` and a number computed from the ranges. A set with other ranges
/// gets another name, because some kernels refuse to replace overlapping ranges in one transaction.
pub(crate) fn add_set(table: &mut Table, prefix: &str, members: BTreeSet<Member>) -> String {
    let name = format!("{prefix}/{:016x}", number(&members));
    let kind = SetKind::Ranges;
    table.sets.insert(name.clone(), Set { kind, members });
    name
}

fn range(block: Cidr) -> Range {
    let number = |address: Ipv4Addr| u64::from(address.to_bits());
    (number(block.network()), number(block.last()))
}

/// The ranges in order; overlapping or adjacent ranges are merged.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The parts of a range outside of the exceptions, which are sorted.
fn without((first, last): Range, except: &[Range]) -> Vec<Range> {
    let mut parts = Vec::new();
    let mut next = first;
    for (from, to) in except {
        if *to < next || *from > last {
            continue;
        }
        if next < *from {
            parts.push((next, from - 1));
        }
        next = to + 1;
    }
    if next <= last {
        parts.push((next, last));
    }
    parts
}

/// A number for the members (FNV-1a). Equal numbers of different sets do no harm: then the members of the set are
/// replaced.
fn number(members: &BTreeSet<Member>) -> u64 {
    let ranges = members.iter().filter_map(|member| match member {
        Member::Range(first, last) => Some([first.octets(), last.octets()]),
        Member::Address(_) | Member::Port(_) => None,
    });
    ranges
        .flatten()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ranges(blocks: &[(&str, &[&str])]) -> Vec<String> {
        let blocks: Vec<(Cidr, Vec<Cidr>)> = blocks
            .iter()
            .map(|(block, except)| (cidr(block), except.iter().copied().map(cidr).collect()))
            .collect();
        let all = members(blocks.iter().map(|(block, except)| (*block, &except[..])));
        all.iter().map(ToString::to_string).collect()
    }

    // findings-2 S36
    #[test]
    fn blocks_lose_their_exceptions_and_become_one_set() {
        assert_eq!(ranges(&[]), [""; 0]);
        assert_eq!(ranges(&[("0.0.0.0/0", &[])]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(
            ranges(&[(
                "10.0.0.0/24",
                &["10.0.0.0/32", "10.0.0.8/29", "10.0.0.9/32"]
            )]),
            ["10.0.0.1-10.0.0.7", "10.0.0.16-10.0.0.255"]
        );
        assert_eq!(
            ranges(&[("10.0.0.0/24", &["10.0.0.128/25", "255.255.255.255/32"])]),
            ["10.0.0.0-10.0.0.127"]
        );
        assert_eq!(ranges(&[("10.0.0.0/24", &["10.0.0.0/8"])]), [""; 0]);
        assert_eq!(
            ranges(&[("0.0.0.0/0", &["255.255.255.255/32", "0.0.0.0/32"])]),
            ["0.0.0.1-255.255.255.254"]
        );
        // An exception belongs to its own block only; adjacent blocks are one range.
        assert_eq!(
            ranges(&[
                ("10.0.0.0/25", &["10.0.0.1/32"]),
                ("10.0.0.0/30", &[]),
                ("10.0.0.128/25", &[])
            ]),
            ["10.0.0.0-10.0.0.255"]
        );
    }

    #[test]
    fn an_address_is_found_in_its_range() {
        let set = members([(cidr("10.0.0.0/24"), &[cidr("10.0.0.8/32")][..])]);
        for (address, expected) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.0.7", true),
            ("10.0.0.8", false),
            ("10.0.0.9", true),
            ("10.0.0.255", true),
            ("10.0.1.0", false),
        ] {
            assert_eq!(
                contain(&set, address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
