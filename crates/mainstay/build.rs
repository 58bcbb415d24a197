//! Links the program to a fixed place in memory.
//!
//! A program that may be loaded anywhere has three megabytes of tables (of functions, mostly) that are
//! written again in each process, when it starts. There is a process for each container, which needs next
//! to nothing else; at a fixed place the tables are the file's, and shared by all. Stacks, heaps and
//! libraries are where chance puts them, as before.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bin=mainstay=-no-pie");
        // Equal functions are linked once: generic code of different types is often the same. It is an
        // option of lld, the compiler's own linker there.
        if target("ARCH") == "x86_64" {
            println!("cargo:rustc-link-arg-bin=mainstay=-Wl,--icf=all,-O2");
        }
    }
}
