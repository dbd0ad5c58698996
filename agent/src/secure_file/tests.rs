use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use super::private::Private;
use super::*;

/// A temporary directory, deleted on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peerwall-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        mode(&path, 0o755);
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, "text").unwrap();
        mode(&path, 0o644);
        path
    }

    fn folder(&self, name: &str, bits: u32) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(&path).unwrap();
        mode(&path, bits);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

fn why(path: &Path) -> String {
    match text(path) {
        Ok(read) => panic!("{} was read: {read:?}", path.display()),
        Err(err) => err.to_string(),
    }
}

#[test]
fn what_is_not_a_regular_file_is_named_and_not_waited_for() {
    let scratch = Scratch::new("special");
    let fifo = scratch.at("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    symlink(&fifo, scratch.at("link")).unwrap();
    let socket = scratch.at("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    symlink(scratch.at("b"), scratch.at("a")).unwrap();
    symlink(scratch.at("a"), scratch.at("b")).unwrap();
    for (path, want) in [
        (fifo, "it is a FIFO, not a regular file"),
        (scratch.at("link"), "it is a FIFO, not a regular file"),
        (socket, "it is a socket, not a regular file"),
        (PathBuf::from("/dev/null"), "it is a device"),
        (scratch.0.clone(), "it is a directory"),
        (scratch.at("none"), "No such file"),
        (scratch.at("a"), "Too many levels of symbolic links"),
        (scratch.file("file").join("in"), "Not a directory"),
    ] {
        let said = why(&path);
        assert!(said.contains(&path.display().to_string()), "{said}");
        assert!(said.contains(want), "{said}");
    }
    fs::write(scratch.at("latin"), b"caf\xe9").unwrap();
    assert!(why(&scratch.at("latin")).contains("byte 3 is not UTF-8"));
    let large = fs::File::create(scratch.at("large")).unwrap();
    large.set_len(TEXT_MAX_BYTES + 1).unwrap();
    assert!(why(&scratch.at("large")).contains("larger than 64 MiB"));
}

#[test]
fn files_links_and_directories_that_others_can_write_are_doubted() {
    let scratch = Scratch::new("doubts");
    let doubts = |path: &Path| text(path).unwrap().doubts.join("; ");
    let good = scratch.file("good");
    assert_eq!(doubts(&good), "");
    symlink("good", scratch.at("link")).unwrap();
    assert_eq!(doubts(&scratch.at("link")), "", "a link of our own");

    let file = scratch.file("file");
    mode(&file, 0o664);
    assert!(doubts(&file).contains("file can be written by others (mode 664)"));

    let open = scratch.folder("open", 0o755);
    scratch.file("open/file");
    symlink(&good, scratch.at("open/link")).unwrap();
    symlink(&open, scratch.at("into")).unwrap();
    mode(&open, 0o777);
    for path in ["open/file", "open/link", "into/file", "open/../good"] {
        let said = doubts(&scratch.at(path));
        assert!(
            said.contains("open can be written by others (mode 777)"),
            "{path}: {said}"
        );
    }

    // Sticky: other users cannot replace the file, but can create hard links.
    mode(&open, 0o1777);
    assert_eq!(doubts(&scratch.at("open/file")), "");
    fs::hard_link(&good, scratch.at("open/hard")).unwrap();
    assert!(doubts(&scratch.at("open/hard")).contains("hard link"));
    fs::remove_file(scratch.at("open/hard")).unwrap();
    // Also of symbolic links, which then lead where their owner did not put them.
    symlink(&scratch.0, scratch.at("elsewhere")).unwrap();
    fs::hard_link(scratch.at("elsewhere"), scratch.at("open/into")).unwrap();
    assert!(doubts(&scratch.at("open/into/good")).contains("open/into is a hard link"));
    let said = publish(&scratch.at("open/into/metrics"), "no").unwrap_err();
    assert!(said.to_string().contains("others could choose"), "{said}");
    fs::remove_file(scratch.at("open/into")).unwrap();

    if !geteuid().is_root() {
        return;
    }
    let other = |path: &Path| {
        nix::unistd::fchownat(
            nix::fcntl::AT_FDCWD,
            path,
            Some(nix::unistd::Uid::from_raw(1234)),
            None,
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .unwrap()
    };
    other(&scratch.at("open/link"));
    assert!(doubts(&scratch.at("open/link")).contains("open/link belongs to user 1234"));
    let of_other = scratch.folder("of-other", 0o755);
    scratch.file("of-other/file");
    other(&of_other);
    assert!(doubts(&scratch.at("of-other/file")).contains("of-other belongs to user 1234"));
    other(&scratch.at("good"));
    assert!(doubts(&good).contains("good belongs to user 1234"));
    assert!(doubts(&scratch.at("link")).contains("good belongs to user 1234"));
    chown(&good, Some(0), None).unwrap();
}

#[test]
fn what_passes_is_told_from_what_is_wrong() {
    for (errno, passes) in [
        (libc::EMFILE, true),
        (libc::ENFILE, true),
        (libc::ENOMEM, true),
        (libc::EIO, true),
        (libc::EINTR, true),
        (libc::EAGAIN, true),
        (libc::ENOENT, false),
        (libc::EACCES, false),
        (libc::ELOOP, false),
    ] {
        let err = io::Error::from_raw_os_error(errno);
        assert_eq!(is_passing(&err), passes, "{err}");
        let err = named(Path::new("/a"), named(Path::new("/b"), err));
        assert_eq!(is_passing(&err), passes, "{err}");
    }
    assert!(!is_passing(&io::Error::other("it is a FIFO")));
}

#[test]
fn metrics_follow_no_link_and_open_nothing_of_others() {
    let scratch = Scratch::new("publish");
    let victim = scratch.file("victim");
    let folder = scratch.folder("folder", 0o777);
    let target = folder.join("peerwall.prom");
    symlink(&victim, folder.join("peerwall.tmp")).unwrap();
    publish(&target, "one").unwrap();
    publish(&target, "two").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "two");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "text");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing is left");

    let refused = |path: &Path| publish(path, "no").unwrap_err().to_string();
    fs::remove_file(&target).unwrap();
    symlink(&victim, &target).unwrap();
    assert!(refused(&target).contains("symbolic link"));
    let fifo = folder.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    assert!(refused(&fifo).contains("FIFO"));
    assert!(refused(Path::new("/dev/null")).contains("device"));
    assert!(refused(&folder).contains("directory"));
    // Other users can replace a directory below one that they can write, but only by one of their
    // own, or by one beside it. With a link, they could redirect the write.
    let below = scratch.folder("folder/sub", 0o755).join("peerwall.prom");
    publish(&below, "three").unwrap();
    assert_eq!(fs::read_to_string(&below).unwrap(), "three");
    symlink(scratch.folder("private", 0o700), folder.join("link")).unwrap();
    for name in ["link/peerwall.prom", "sub/../../private/peerwall.prom"] {
        assert!(
            refused(&folder.join(name)).contains("others could choose"),
            "{name}"
        );
    }
    // Root's link in root's directory is treated like a directory.
    symlink(&folder, scratch.at("mine")).unwrap();
    publish(&scratch.at("mine/sub/peerwall.prom"), "four").unwrap();
    assert_eq!(fs::read_to_string(&below).unwrap(), "four");
    assert_eq!(fs::read_dir(scratch.at("private")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "text");
}

#[test]
fn the_state_is_closed_to_others_and_refused_where_it_was_not() {
    let scratch = Scratch::new("private");
    let path = scratch.at("deep/state");
    let state = Private::secret(path.clone());
    let write = |state: &Private| state.write("file", |to| to.write_all(b"text"));
    assert_eq!(state.read("file").unwrap(), None);
    state.remove("file").unwrap();
    write(&state).unwrap();
    let bits = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(bits(&path), 0o700);
    assert_eq!(bits(&path.join("file")), 0o600);
    assert_eq!(state.read("file").unwrap().as_deref(), Some(&b"text"[..]));

    // Older versions left both readable.
    mode(&path, 0o755);
    mode(&path.join("file"), 0o644);
    assert!(state.read("file").unwrap().is_some());
    write(&state).unwrap();
    assert_eq!((bits(&path), bits(&path.join("file"))), (0o700, 0o600));

    let refused = |why: io::Result<Option<Vec<u8>>>| why.unwrap_err().to_string();
    mode(&path.join("file"), 0o666);
    let said = refused(state.read("file"));
    assert!(
        said.contains("state/file") && said.contains("(mode 666)"),
        "{said}"
    );
    mode(&path, 0o777);
    let said = refused(state.read("file"));
    assert!(said.contains("state can be written by others"), "{said}");
    assert!(write(&state).is_err() && state.lock("lock").is_err());
    mode(&path, 0o700);

    // Planted files are neither followed nor opened.
    for name in ["link", "fifo"] {
        let planted = path.join(name);
        match name {
            "link" => symlink(scratch.file("victim"), &planted).unwrap(),
            _ => mkfifo(&planted, Mode::S_IRWXU).unwrap(),
        }
        assert!(state.read(name).is_err(), "{name}");
        assert!(state.write(name, |_| Ok(())).is_err(), "{name}");
        assert!(state.lock(name).is_err(), "{name}");
    }
    assert_eq!(fs::read_to_string(scratch.at("victim")).unwrap(), "text");
}

#[test]
fn a_lock_is_bounded_and_names_its_holder() {
    let scratch = Scratch::new("lock");
    let state = Private::secret(scratch.at("state"));
    let short = Duration::from_millis(50);
    let held = state.lock_within("lock", short).unwrap();
    let bits = fs::metadata(state.path().join("lock")).unwrap().mode();
    assert_eq!(bits & 0o777, 0o600);
    let said = state.lock_within("lock", short).unwrap_err().to_string();
    let me = format!("(pid {})", std::process::id());
    assert!(said.contains("lock: ") && said.contains(&me), "{said}");
    drop(held);
    state.lock_within("lock", short).unwrap();
}
