//! The allocators of a server, in a process that has both.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::fs;
use std::sync::mpsc;
use std::thread;

use host_kernel::allocator::{self, Allocator};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The flags of each mapping of this process (proc_pid_smaps(5)).
fn mapping_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/smaps").expect("the mappings");
    let flags = text
        .lines()
        .filter_map(|line| line.strip_prefix("VmFlags:"));
    flags.map(str::to_owned).collect()
}

fn resident_kib() -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("the status");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.expect("the memory").trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

/// One test: the process changes once, and has no other thread at that time that could free memory of both kinds.
#[test]
fn memory_from_before_the_change_and_after_it_is_freed_where_it_was_made() {
    let before: Vec<String> = (0..1000).map(|n| format!("before-{n}")).collect();
    let mut grown = vec![1u8; 100];
    allocator::prepare_server().unwrap();
    allocator::before_park();
    // Resized by the C library, and freed there.
    grown.resize(100_000, 2);
    assert!(grown[..100].iter().all(|byte| *byte == 1));
    assert!(grown[100..].iter().all(|byte| *byte == 2));
    assert_eq!(before[999], "before-999");
    drop((before, grown));

    for align in [1, 8, 16, 64, 4096, 65_536] {
        for size in [1, 7, 16, 100, 4096, 70_000, 3 << 20] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layouts have a size, and each block is used within it and freed once.
            unsafe {
                let zeroed = alloc_zeroed(layout);
                let block = alloc(layout);
                assert!(zeroed.addr().is_multiple_of(align) && block.addr().is_multiple_of(align));
                assert!((0..size).all(|at| zeroed.add(at).read() == 0));
                block.write_bytes(7, size);
                let larger = realloc(block, layout, size * 2);
                assert!(larger.addr().is_multiple_of(align));
                assert!((0..size).all(|at| larger.add(at).read() == 7));
                dealloc(larger, Layout::from_size_align(size * 2, align).unwrap());
                dealloc(zeroed, layout);
            }
        }
    }

    // Freed by another thread than the one that made it, which has ended.
    let (sender, receiver) = mpsc::channel();
    let makers: Vec<_> = (0..4)
        .map(|maker| {
            let sender = sender.clone();
            thread::spawn(move || {
                // Two of them keep the allocator of the C library.
                if maker % 2 == 0 {
                    allocator::before_park();
                }
                for n in 0..5000 {
                    sender.send(vec![maker; n % 700]).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    for maker in makers {
        maker.join().unwrap();
    }
    let received: Vec<Vec<u8>> = receiver.iter().collect();
    assert_eq!(received.len(), 20_000);
    assert!(
        received
            .iter()
            .all(|block| block.windows(2).all(|two| two[0] == two[1]))
    );
    drop(received);

    // `nh`: no huge pages.
    assert!(mapping_flags().iter().any(|flags| flags.contains(" nh")));

    // Freed memory goes back to the kernel.
    let large: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 50_000]).collect();
    let full = resident_kib();
    drop(large);
    allocator::give_back();
    let after = resident_kib();
    assert!(full - after > 80_000, "{full} KiB, then {after}");

    // Another thread frees it: after the next park of the thread that has its pages.
    let large: Vec<Vec<u8>> = (0..4000).map(|_| vec![1; 20_000]).collect();
    let full = resident_kib();
    thread::spawn(move || drop(large)).join().unwrap();
    thread::spawn(allocator::give_back).join().unwrap();
    allocator::before_park();
    thread::spawn(allocator::give_back).join().unwrap();
    let after = resident_kib();
    assert!(full - after > 60_000, "{full} KiB, then {after}");
}
