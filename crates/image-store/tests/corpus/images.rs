//! The corpus: families of unusual images, each a product of plain lists, and random images from seeds.

use super::description::*;

pub fn all() -> Vec<Described> {
    let mut images = Vec::new();
    let mut add = |family: &str, layers: Vec<Vec<Entry>>| {
        let name = format!("{family}-{}", images.len());
        images.push(Described { name, layers });
    };
    for entry in singles() {
        add("single", vec![vec![directory("d"), entry]]);
    }
    for (lower, upper) in deletions() {
        add("deletion", vec![lower.clone(), upper.clone()]);
        add(
            "deletion-and-more",
            vec![lower, upper, vec![file("t/again")]],
        );
    }
    for (lower, upper) in implicit() {
        add("implicit", vec![lower, upper]);
    }
    for layers in hard_links() {
        add("hard-link", layers);
    }
    for layer in paths() {
        add("path", vec![vec![directory("d"), file("d/old")], layer]);
    }
    for layers in roots() {
        add("root", layers);
    }
    for layer in places() {
        add("place", vec![layer]);
    }
    for count in [1, 2, 39, 60, 130, 500] {
        add("layers", many(count));
    }
    let twice = vec![file("d/a"), without("d/b")];
    let between = vec![file("d/b"), file("d/a").mode(0o600)];
    add("repeated", vec![twice.clone(), between, twice]);
    let hidden = vec![directory("d").mode(0o700), file("d/a"), file("e")];
    add(
        "opaque-root",
        vec![hidden, vec![opaque(""), file("d/b")], vec![file("f")]],
    );
    add("empty-layers", vec![vec![], vec![file("a")], vec![]]);
    for seed in 0..60 {
        add("chance", Chance(seed).layers());
    }
    images
}

/// Entries of every type, mode, owner, time and attribute.
fn singles() -> Vec<Entry> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut all = vec![
        fifo("d/x"),
        character("d/x", 1, 3),
        block("d/x", 7, 200),
        symlink("d/x", "/absolute"),
        symlink("d/x", "../../../../climbing"),
        symlink("d/x", "x"),
        symlink("d/x", "y").owner(5, 6).time(77),
        symlink("x", &"long/".repeat(60)),
        file("d/x").attribute("user.a", b"\0\n=\xff"),
        file("d/x").attribute("user.empty", b""),
        file("d/x")
            .attribute("security.capability", &capability)
            .mode(0o755),
        file("d/x")
            .attribute("security.capability", &capability)
            .owner(7, 7),
        directory("d").attribute("user.a", b"of a directory"),
        file("d/x").attribute("trusted.overlay.opaque", b"y"),
        file("x").time(0),
        file("x").time(4_294_967_296),
        directory("x").time(1),
        fifo("x").time(2).owner(3, 4).mode(0o620),
        character("x", 5, 1).owner(3, 4).mode(0o620),
        file("x").owner(2_097_151, 2_097_151),
        directory("d/x/y/z"),
    ];
    for mode in [0, 0o111, 0o600, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777] {
        all.push(file("d/x").mode(mode).owner(1000, 1001));
        all.push(directory("d/x").mode(mode).owner(1000, 1001));
    }
    all
}

/// Deletions of each type of file, alone, and with other entries of the layer before and after.
fn deletions() -> Vec<(Vec<Entry>, Vec<Entry>)> {
    let lowers: [Vec<Entry>; 5] = [
        vec![file("t")],
        vec![
            directory("t").mode(0o1770),
            file("t/a"),
            directory("t/b"),
            file("t/b/c"),
        ],
        vec![symlink("t", "u"), directory("u"), file("u/a")],
        vec![fifo("t")],
        vec![file("other")],
    ];
    let uppers: [Vec<Entry>; 8] = [
        vec![without("t")],
        vec![without("t"), file("t")],
        vec![without("t"), directory("t").mode(0o711), file("t/new")],
        vec![without("t"), symlink("t", "other")],
        vec![opaque("t"), file("t/new")],
        vec![directory("t").mode(0o711), opaque("t"), file("t/new")],
        vec![without("t/a"), without("t/b/c")],
        vec![without("t/b"), directory("t/b"), file("t/b/new")],
    ];
    let pairs = lowers.iter().flat_map(|lower| {
        let uppers = uppers.iter().cloned();
        uppers.map(|upper| (lower.clone(), upper))
    });
    pairs.collect()
}

/// Layers without an entry for a directory, above each type of directory and of link to a directory.
fn implicit() -> Vec<(Vec<Entry>, Vec<Entry>)> {
    let lowers: [Vec<Entry>; 8] = [
        vec![directory("t").mode(0o1777)],
        vec![directory("t").mode(0o700).owner(1000, 1001).time(5)],
        vec![
            directory("t").attribute("user.a", b"b"),
            directory("t/in").mode(0o2775).owner(0, 9),
        ],
        vec![
            symlink("t", "real"),
            directory("real").mode(0o1777),
            file("real/old"),
        ],
        vec![
            symlink("t", "/usr/lib"),
            directory("usr/lib").mode(0o750),
            file("usr/lib/old"),
        ],
        vec![
            symlink("t", "u"),
            symlink("u", "../v"),
            directory("v").owner(8, 8),
            file("v/old"),
        ],
        vec![symlink("t", "/nowhere/yet")],
        vec![],
    ];
    let uppers: [Vec<Entry>; 6] = [
        vec![file("t/new")],
        vec![file("t/in/deep/new"), file("t/in/second")],
        vec![without("t/old"), file("t/new")],
        vec![hard("t/link", "t/new2"), file("t/x")],
        vec![symlink("t/link", "old"), directory("t/own").mode(0o700)],
        vec![directory("t").mode(0o711), file("t/new")],
    ];
    let pairs = lowers.iter().flat_map(|lower| {
        uppers.iter().map(|upper| {
            let mut lower = lower.clone();
            if upper.iter().any(|entry| entry.path == "t/link") {
                lower.push(file("t/new2"));
            }
            (lower, upper.clone())
        })
    });
    pairs.collect()
}

/// Hard links in a layer and across layers.
fn hard_links() -> Vec<Vec<Vec<Entry>>> {
    let base = vec![
        directory("d").mode(0o750),
        file("d/a")
            .mode(0o4711)
            .owner(3, 4)
            .attribute("user.a", b"b"),
        symlink("d/l", "a"),
        fifo("d/p"),
        symlink("e", "d"),
    ];
    vec![
        vec![vec![file("a"), hard("b", "a"), hard("c", "b")]],
        vec![vec![file("a"), hard("d/b", "/a")]],
        vec![vec![symlink("a", "none"), hard("b", "a")]],
        vec![vec![fifo("a"), hard("b", "a")]],
        vec![base.clone(), vec![hard("b", "d/a")]],
        vec![base.clone(), vec![hard("d/b", "d/a"), hard("c", "d/b")]],
        vec![base.clone(), vec![hard("b", "e/a")]],
        vec![base.clone(), vec![hard("b", "d/l")]],
        vec![base.clone(), vec![hard("b", "d/p")]],
        vec![base.clone(), vec![file("d/a"), hard("b", "d/a")]],
        vec![base.clone(), vec![hard("b", "../../d/a")]],
        vec![
            base.clone(),
            vec![file("x")],
            vec![hard("b", "d/a"), without("d/a")],
        ],
        vec![base, vec![hard("b", "missing")]],
    ]
}

/// Unusual paths.
fn paths() -> Vec<Vec<Entry>> {
    let long = "n".repeat(200);
    let deep = "deep/".repeat(40);
    vec![
        vec![file("./x")],
        vec![file("/x")],
        vec![file("../x")],
        vec![file("../../d/x")],
        vec![file("d/../x")],
        vec![file("d/./x"), file("d//y")],
        vec![directory("x/"), file("x/y")],
        vec![directory("./")],
        vec![file(&long)],
        vec![file(&format!("{deep}x"))],
        vec![
            file(".hidden"),
            file("with space"),
            file("with\nline"),
            file("ünï"),
        ],
        vec![symlink("s", "d"), file("s/x")],
        vec![symlink("s", "/d"), file("s/x")],
        vec![symlink("s", "missing"), file("s/x")],
        vec![symlink("s", "/missing/too"), file("s/x/y")],
        vec![symlink("s", "../../../out"), file("s/x")],
        vec![symlink("s", "q"), symlink("q", "r"), file("s/x")],
        vec![symlink("s", "s"), file("s/x")],
        vec![file("d"), file("x")],
        vec![
            file("x"),
            file("x").mode(0o600),
            directory("x"),
            file("x/y"),
        ],
        vec![file("d/old/below-a-file")],
    ]
}

/// Entries of the root itself, below and above layers without such an entry.
fn roots() -> Vec<Vec<Vec<Entry>>> {
    let given = |path: &str| vec![directory(path).owner(3, 4).time(9), file("a")];
    let back = vec![directory("/")];
    vec![
        vec![given("./")],
        vec![given(".")],
        vec![vec![directory("./").mode(0o700).owner(1000, 0)]],
        vec![vec![directory("/").mode(0o1777).attribute("user.a", b"b")]],
        vec![vec![directory("d")], given("./")],
        vec![given("/"), vec![file("b")], vec![file("d/c")]],
        vec![given("./"), back.clone(), vec![file("b")]],
        vec![vec![file("x")], given("./"), vec![file("b")], back, vec![]],
        vec![given("./"), vec![opaque(""), file("b")]],
    ]
}

/// Files of each type at the paths of a container's mounts.
fn places() -> Vec<Vec<Entry>> {
    let shapes = |path: &'static str| {
        vec![
            vec![file(path).mode(0o600).owner(3, 4)],
            vec![directory(path).mode(0o700).owner(3, 4)],
            vec![directory(path), file(&format!("{path}/inside"))],
            vec![symlink(path, "/dangling/far")],
            vec![symlink(path, "beside")],
            vec![
                symlink(path, "/real"),
                directory("real").mode(0o711).owner(5, 5),
                file("real/old"),
            ],
            vec![symlink(path, "/real"), file("real").mode(0o600).owner(5, 5)],
            vec![symlink(path, &format!("/{path}"))],
            vec![fifo(path)],
            vec![character(path, 1, 3)],
            vec![file("first"), hard(path, "first")],
        ]
    };
    let roots = ["proc", "dev", "sys", "etc", "tmp"];
    let inner = ["dev/null", "dev/shm", "dev/pts", "sys/fs", "proc/self"];
    let files = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
    let paths = roots.into_iter().chain(inner).chain(files);
    paths.flat_map(shapes).collect()
}

/// Many layers, which write, replace and remove files.
fn many(count: usize) -> Vec<Vec<Entry>> {
    let layer = |number: usize| {
        let mut entries = vec![
            file(&format!("own/{number}")),
            file("top").mode(0o600 + number as u32 % 8),
        ];
        if number == 0 {
            entries.push(directory("own").mode(0o1777).owner(5, 5));
        }
        if number % 7 == 3 {
            entries.push(without(&format!("own/{}", number - 1)));
        }
        entries
    };
    (0..count).map(layer).collect()
}

/// A random generator for layers, deterministic for each seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let parts: Vec<_> = (0..depth)
            .map(|_| ["a", "b", "c", "d"][self.below(4)])
            .collect();
        parts.join("/")
    }

    fn layers(mut self) -> Vec<Vec<Entry>> {
        for _ in 0..8 {
            self.below(2);
        }
        let count = 2 + self.below(4);
        (0..count).map(|_| self.layer()).collect()
    }

    fn layer(&mut self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..1 + self.below(5) {
            let path = self.path();
            // A layer has each path only once.
            if entries.iter().any(|entry| entry.path == path) {
                continue;
            }
            let mode = [0o644, 0o755, 0o1777, 0o4750][self.below(4)];
            let owner = [0, 0, 1000][self.below(3)];
            let entry = match self.below(8) {
                0..=2 => file(&path),
                3 | 4 => directory(&path),
                5 => symlink(&path, ["a", "/b", "../c", "d/a", "/none"][self.below(5)]),
                6 => fifo(&path),
                _ => without(&path),
            };
            entries.push(entry.mode(mode).owner(owner, owner));
        }
        // As most programs do: deletions first, then sorted by path.
        entries.sort_by_key(|entry| (!entry.path.contains(".wh."), entry.path.clone()));
        entries
    }
}
