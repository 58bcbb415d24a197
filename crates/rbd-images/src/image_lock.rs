//! One lock for all users of an image in this process.

use std::sync::{LazyLock, Mutex, PoisonError};

use host_kernel::keyed_locks::KeyedLocks;

use crate::image::Image;

static LOCKS: LazyLock<KeyedLocks<Mutex<()>>> = LazyLock::new(KeyedLocks::default);

/// Runs work while nothing else in this process works on images of the same pool and name. So the search for the
/// users of an image and its unmapping do not overlap with a new user. Other images do not wait.
pub fn exclusively<T>(image: &Image, work: impl FnOnce() -> T) -> T {
    let lock = LOCKS.get(&image.full_name());
    let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn an_image_does_not_wait_for_another_one() {
        let image = |name: &str| Image {
            monitors: vec!["10.0.0.1:6789".to_owned()],
            pool: "kube".to_owned(),
            name: name.to_owned(),
        };
        let (entered, has_entered) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let (first, again) = (image("foo"), image("foo"));
        let waiting = thread::spawn(move || {
            exclusively(&first, || {
                entered.send(()).unwrap();
                gate.recv().unwrap();
                1
            })
        });
        has_entered.recv().unwrap();
        assert_eq!(exclusively(&image("bar"), || 2), 2);
        let second = thread::spawn(move || exclusively(&again, || 3));
        open.send(()).unwrap();
        assert_eq!((waiting.join().unwrap(), second.join().unwrap()), (1, 3));
    }
}
