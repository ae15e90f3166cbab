//! The agent's home directory: where everything lives, who may read it, and who holds it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::hash::{sha256, to_hex};

/// The environment variable that names the home directory.
pub const HOME_VARIABLE: &str = "BTCR2_AGENT_HOME";

/// Name of the socket on which a running agent takes commands.
pub const SOCKET_FILE: &str = "agent.sock";

/// The longest path of a Unix socket that every system takes, in bytes. Linux takes 107 (108 with
/// the final zero), macOS and the BSDs 103.
const SOCKET_PATH_MAX: usize = 103;

/// Why the home directory can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The operating system names no directory for data of this user.
    #[error("this system names no data directory for you: give one with --home or {HOME_VARIABLE}")]
    Nowhere,
    /// A file or directory can not be created, read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no agent in this directory.
    #[error("there is no agent in {path}: run btcr2-agent init, or name its home with --home", path = .path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Others than its owner can read it.
    #[error(
        "other users can open {path} (mode {mode:04o}): run chmod {wanted:o} {path}, and treat what it held as known to them",
        path = .path.display()
    )]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The permissions it must have.
        wanted: u32,
    },
    /// A directory for the socket belongs to somebody else, or is not a directory.
    #[error("{path} is not a directory of yours: remove it, or give the agent a home with a shorter path", path = .path.display())]
    NotYours {
        /// The path.
        path: PathBuf,
    },
    /// Another process holds the home.
    #[error("{path} is held by {holder}: one agent per home; stop that one or choose another --home", path = .path.display())]
    Locked {
        /// The home.
        path: PathBuf,
        /// Who holds it: `process <pid>` or `another process`.
        holder: String,
    },
}

/// The directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Decides where the home is: `flag` (`--home`), else `variable` ([`HOME_VARIABLE`], ignored
    /// when empty), else the system's directory for this user's data. Creates nothing.
    ///
    /// # Errors
    /// [`HomeError::Nowhere`], or [`HomeError::Io`] if a relative path has nothing to start from.
    pub fn locate(flag: Option<&Path>, variable: Option<&OsStr>) -> Result<Self, HomeError> {
        let chosen = flag
            .map(Path::to_owned)
            .or_else(|| variable.filter(|v| !v.is_empty()).map(PathBuf::from))
            .or_else(|| {
                directories::ProjectDirs::from("", "", "btcr2-agent")
                    .map(|dirs| dirs.data_dir().to_owned())
            })
            .ok_or(HomeError::Nowhere)?;
        let root = std::path::absolute(&chosen).map_err(io_error("find", &chosen))?;
        Ok(Self { root })
    }

    /// Creates the directory, for its owner only (0700 on Unix); checks it when it is there.
    ///
    /// # Errors
    /// [`HomeError::Io`], [`HomeError::Open`].
    pub fn create(&self) -> Result<(), HomeError> {
        create_private_dir(&self.root).map_err(io_error("create", &self.root))?;
        check_mode(&self.root, 0o700)
    }

    /// Checks that the directory is there and nobody else's to open.
    ///
    /// # Errors
    /// [`HomeError::Missing`], [`HomeError::Open`].
    pub fn check(&self) -> Result<(), HomeError> {
        if !self.root.is_dir() {
            return Err(HomeError::Missing {
                path: self.root.clone(),
            });
        }
        check_mode(&self.root, 0o700)
    }

    /// Takes the home for this process until the lock is dropped.
    ///
    /// # Errors
    /// [`HomeError::Locked`] with the process that holds it; [`HomeError::Io`].
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.root.join("agent.lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        private_mode(&mut options);
        let mut file = options.open(&path).map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HomeError::Locked {
                    path: self.root.clone(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
        // The lock is what counts; the number only tells people whom to look for.
        let write_pid = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            file.sync_all()
        };
        write_pid(&mut file).map_err(io_error("write", &path))?;
        Ok(HomeLock { file })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The settings: `config.toml`.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// This agent's own list of relays, when it has one: `relays.toml`.
    #[must_use]
    pub fn relays_path(&self) -> PathBuf {
        self.root.join("relays.toml")
    }

    /// The encrypted root secret: `keystore.json`.
    #[must_use]
    pub fn keystore_path(&self) -> PathBuf {
        self.root.join("keystore.json")
    }

    /// The public part of the key, readable without a passphrase: `identity.json`.
    #[must_use]
    pub fn identity_path(&self) -> PathBuf {
        self.root.join("identity.json")
    }

    /// The store: `store.sqlite`.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.root.join("store.sqlite")
    }

    /// The encrypted bundle of what the recovery words do not restore: `bundle.enc`.
    #[must_use]
    pub fn bundle_path(&self) -> PathBuf {
        self.root.join("bundle.enc")
    }

    /// The socket on which a running agent takes commands: `agent.sock`, or, when that path is
    /// longer than a Unix socket's can be, a path under the user's runtime directory (else the
    /// system's temporary one) that is named after the home. Creates nothing.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        let runtime = directories::BaseDirs::new()
            .and_then(|dirs| dirs.runtime_dir().map(Path::to_owned))
            .filter(|dir| dir.is_dir())
            .unwrap_or_else(std::env::temp_dir);
        self.socket_path_within(&runtime)
    }

    fn socket_path_within(&self, runtime: &Path) -> PathBuf {
        let direct = self.root.join(SOCKET_FILE);
        if direct.as_os_str().len() <= SOCKET_PATH_MAX {
            return direct;
        }
        // Through links or not, the same home gives the same name.
        let root = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        let mut name = to_hex(&sha256(root.as_os_str().as_encoded_bytes()));
        name.truncate(16);
        runtime
            .join(format!("btcr2-agent-{name}"))
            .join(SOCKET_FILE)
    }

    /// Creates the directory of [`Home::socket_path`] where it is not the home itself, and makes
    /// sure nobody else made it first. Returns the path of the socket.
    ///
    /// # Errors
    /// [`HomeError::NotYours`], [`HomeError::Open`], [`HomeError::Io`].
    pub fn prepare_socket(&self) -> Result<PathBuf, HomeError> {
        let socket = self.socket_path();
        match socket.parent() {
            Some(dir) if dir != self.root => self.prepare_socket_dir(dir)?,
            _ => {}
        }
        Ok(socket)
    }

    fn prepare_socket_dir(&self, dir: &Path) -> Result<(), HomeError> {
        create_private_dir(dir).map_err(io_error("create", dir))?;
        // Anybody can create names in a shared temporary directory: a link, or a directory of
        // another user, would hand him the commands.
        let found = fs::symlink_metadata(dir).map_err(io_error("read", dir))?;
        let home = fs::metadata(&self.root).map_err(io_error("read", &self.root))?;
        if !found.is_dir() || !same_owner(&found, &home) {
            return Err(HomeError::NotYours {
                path: dir.to_owned(),
            });
        }
        check_mode(dir, 0o700)
    }
}

/// The home, held by this process. Dropping it releases the home; so does the end of the process.
#[derive(Debug)]
pub struct HomeLock {
    file: File,
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // Best effort: the number of a process that has ended misleads.
        let _ = self.file.set_len(0);
    }
}

/// Refuses a file that others than its owner can open, with the command that mends it. On systems
/// without Unix permissions there is nothing to check.
///
/// # Errors
/// [`HomeError::Open`]; [`HomeError::Io`] if the file can not be looked at.
pub fn check_private(path: &Path) -> Result<(), HomeError> {
    check_mode(path, 0o600)
}

/// Writes a file only its owner can read, whole or not at all: into a new file beside it, to the
/// disk, then in its place.
///
/// # Errors
/// [`HomeError::Io`]; the file that was there is unchanged.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        // Left by an earlier process of this number that died here.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        private_mode(&mut options);
        let mut file = options.open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_dir(path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside);
        io_error("write", path)(source)
    })
}

/// Who wrote its number into the lock file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // Windows refuses to read a locked file; the holder may not have written yet.
    let read = file.take(16).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io {
        action,
        path,
        source,
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

#[cfg(unix)]
fn private_mode(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private_mode(_: &mut OpenOptions) {}

#[cfg(unix)]
fn check_mode(path: &Path, wanted: u32) -> Result<(), HomeError> {
    use std::os::unix::fs::PermissionsExt as _;
    let found = fs::metadata(path).map_err(io_error("read", path))?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(HomeError::Open {
            path: path.to_owned(),
            mode,
            wanted,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(path: &Path, _: u32) -> Result<(), HomeError> {
    fs::metadata(path).map(drop).map_err(io_error("read", path))
}

#[cfg(unix)]
fn same_owner(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    a.uid() == b.uid()
}

#[cfg(not(unix))]
fn same_owner(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Makes a rename durable.
#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&dir.path().join("agent")), None).unwrap();
        home.create().unwrap();
        (dir, home)
    }

    #[test]
    fn the_flag_goes_before_the_variable_and_that_before_the_system() {
        let (flag, variable) = (Path::new("/a"), OsStr::new("/b"));
        let root = |flag, variable| Home::locate(flag, variable).unwrap().root;
        assert_eq!(root(Some(flag), Some(variable)), Path::new("/a"));
        assert_eq!(root(None, Some(variable)), Path::new("/b"));
        let system = root(None, None);
        assert!(
            system.to_string_lossy().contains("btcr2-agent"),
            "{system:?}"
        );
        assert_eq!(root(None, Some(OsStr::new(""))), system);
        assert!(root(Some(Path::new("here")), None).is_absolute());
    }

    #[test]
    fn a_missing_home_names_the_command_that_makes_one() {
        let (_dir, home) = home();
        home.check().unwrap();
        std::fs::remove_dir(home.root()).unwrap();
        let error = home.check().unwrap_err();
        assert!(matches!(error, HomeError::Missing { .. }));
        assert!(
            error.to_string().contains("run btcr2-agent init"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn directories_are_0700_files_0600_and_open_ones_are_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (_dir, home) = home();
        assert_eq!(mode(home.root()), 0o700);

        let keystore = home.keystore_path();
        write_private(&keystore, b"first").unwrap();
        write_private(&keystore, b"second").unwrap();
        assert_eq!(std::fs::read(&keystore).unwrap(), b"second");
        assert_eq!(mode(&keystore), 0o600);
        check_private(&keystore).unwrap();
        let lock = home.lock().unwrap();
        assert_eq!(mode(&home.root().join("agent.lock")), 0o600);
        drop(lock);
        let left: Vec<_> = std::fs::read_dir(home.root()).unwrap().collect();
        assert_eq!(left.len(), 2, "nothing is left beside: {left:?}");

        for bad in [0o640, 0o604, 0o622] {
            set(&keystore, bad);
            let error = check_private(&keystore).unwrap_err();
            assert!(matches!(error, HomeError::Open { .. }));
            let remedy = format!("run chmod 600 {}", keystore.display());
            assert!(error.to_string().contains(&remedy), "{error}");
        }
        set(home.root(), 0o750);
        for error in [home.check().unwrap_err(), home.create().unwrap_err()] {
            assert!(error.to_string().contains("mode 0750"), "{error}");
            assert!(error.to_string().contains("run chmod 700"), "{error}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_there_as_it_was() {
        let (_dir, home) = home();
        let path = home.root().join("a-directory");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("content"), "kept").unwrap();
        let error = write_private(&path, b"new").unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(std::fs::read(path.join("content")).unwrap(), b"kept");
        assert_eq!(std::fs::read_dir(home.root()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_handle_of_this_process_does_not_get_the_lock() {
        let (_dir, home) = home();
        let lock = home.lock().unwrap();
        let error = home.lock().unwrap_err();
        let holder = format!("held by process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        assert!(
            error.to_string().contains("choose another --home"),
            "{error}"
        );
        drop(lock);
        home.lock().unwrap();
    }

    const HOLD: &str = "BTCR2_AGENT_TEST_HOLD";

    /// Not a test by itself: the process the next test starts.
    #[test]
    fn held_by_another_process() {
        let Some(root) = std::env::var_os(HOLD) else {
            return;
        };
        let home = Home::locate(Some(Path::new(&root)), None).unwrap();
        let _lock = home.lock().unwrap();
        println!("\nheld");
        let _ = io::stdin().read_to_end(&mut Vec::new());
    }

    #[test]
    fn a_lock_of_another_process_is_named_and_ends_with_it() {
        let (_dir, home) = home();
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "config::home::tests::held_by_another_process",
            ])
            .env(HOLD, home.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(other.stdout.take().unwrap()).lines();
        let held = lines.map_while(Result::ok).any(|line| line == "held");
        let attempt = home.lock();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(held);
        let error = attempt.unwrap_err();
        assert!(matches!(error, HomeError::Locked { .. }));
        let holder = format!("held by process {}:", other.id());
        assert!(error.to_string().contains(&holder), "{error}");
        // Killed, not closed: its number is still in the file, its lock is not.
        home.lock().unwrap();
    }

    #[test]
    fn the_socket_path_fits_wherever_the_home_is() {
        let runtime = Path::new("/run/user/1000");
        let near = Home::locate(Some(Path::new("/home/a/agent")), None).unwrap();
        assert_eq!(
            near.socket_path_within(runtime),
            Path::new("/home/a/agent/agent.sock")
        );
        let at = |length: usize| {
            // Root, "/", name, "/agent.sock".
            let root = format!("/{}", "x".repeat(length - 1 - "/agent.sock".len()));
            Home::locate(Some(Path::new(&root)), None).unwrap()
        };
        let longest = at(SOCKET_PATH_MAX);
        assert!(
            longest
                .socket_path_within(runtime)
                .starts_with(longest.root())
        );
        let far = at(SOCKET_PATH_MAX + 1).socket_path_within(runtime);
        let farther = at(SOCKET_PATH_MAX + 2).socket_path_within(runtime);
        assert!(far.starts_with(runtime) && farther.starts_with(runtime));
        assert_ne!(far, farther, "a home, a socket");
        assert!(far.as_os_str().len() <= SOCKET_PATH_MAX);
        assert_eq!(far.file_name().unwrap(), "agent.sock");
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_directory_somebody_else_made_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, home) = home();
        let fine = dir.path().join("fine");
        home.prepare_socket_dir(&fine).unwrap();
        home.prepare_socket_dir(&fine).unwrap();
        let mode = std::fs::metadata(&fine).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fine, &link).unwrap();
        let error = home.prepare_socket_dir(&link).unwrap_err();
        assert!(matches!(error, HomeError::NotYours { .. }), "{error:?}");

        std::fs::set_permissions(&fine, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = home.prepare_socket_dir(&fine).unwrap_err();
        assert!(matches!(error, HomeError::Open { .. }), "{error:?}");
    }
}
