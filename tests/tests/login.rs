//! `muster login` and `logout` as their user meets them: against real servers, also one behind TLS
//! with a certificate that nobody vouches for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use system_tests::processes::{Machine, Ran, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

/// A server on a machine of its own, and its admin key.
async fn server() -> (Machine, Server, String) {
    let machine = Machine::new();
    let server = machine.serve().await;
    let key = fs::read_to_string(machine.state().join("key")).unwrap().trim().to_owned();
    (machine, server, key)
}

async fn login(machine: &Machine, args: &[&str], key: &str) -> Ran {
    machine.run_with_input(&[&["login"], args].concat(), format!("{key}\n").as_bytes()).await
}

fn file(machine: &Machine) -> PathBuf {
    machine.home().join("config/muster/muster.toml")
}

fn profile(machine: &Machine, name: &str) -> PathBuf {
    machine.home().join(format!("config/muster/profiles/{name}.toml"))
}

#[cfg(unix)]
fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// How many batches a server has, as the machine's command sees it; batches are made one by one.
async fn batches(machine: &Machine, args: &[&str]) -> usize {
    machine.run(&[args, &["batch", "list", "-o", "plain"]].concat()).await.exits(0).lines().len()
}

/// A server whose answers show which it is: `n` batches.
async fn server_with(n: usize) -> (Machine, Server, String) {
    let machine = Machine::new().with("MUSTER_LORAWAN_URL", "http://127.0.0.1:1");
    let server = machine.serve().await;
    for _ in 0..n {
        server.create(1).await;
    }
    let key = fs::read_to_string(machine.state().join("key")).unwrap().trim().to_owned();
    (machine, server, key)
}

#[tokio::test]
async fn a_key_that_works_is_kept_for_its_owner_alone_and_other_lines_stay() {
    let (_one, server, key) = server_with(1).await;
    let user = Machine::new();
    fs::create_dir_all(file(&user).parent().unwrap()).unwrap();
    fs::write(file(&user), "# mine\nlog = 'error' # quiet\nserver = \"http://127.0.0.1:1\"\nkey = 'old'").unwrap();
    let ran = login(&user, &[&format!("{}/", server.url)], &key).await.exits(0);
    assert_eq!(ran.stdout, "");
    assert!(!ran.stderr.contains(&key), "{ran:?}");
    let text = fs::read_to_string(file(&user)).unwrap();
    assert_eq!(text, format!("# mine\nlog = 'error' # quiet\nserver = \"{}\"\nkey = \"{key}\"\n", server.url));
    #[cfg(unix)]
    assert_eq!(mode(&file(&user)), 0o600);
    assert_eq!(batches(&user, &[]).await, 1);

    user.run(&["logout"]).await.exits(0).lines();
    assert_eq!(fs::read_to_string(file(&user)).unwrap(), "# mine\nlog = 'error' # quiet\n");
    assert_eq!(batches(&user, &[]).await, 0);
    user.run(&["logout"]).await.refuses(3, &["there is no server in"]);
}

#[tokio::test]
async fn a_key_that_does_not_work_is_not_kept() {
    let (_machine, server, key) = server().await;
    let user = Machine::new();
    let wrong = format!("{}x", &key[..key.len() - 1]);
    login(&user, &[&server.url], &wrong).await.refuses(4, &["nothing was written", "muster keys create"]);
    login(&user, &[&server.url], "two words").await.refuses(4, &[]);
    login(&user, &[&server.url], "").await.refuses(2, &["standard input is empty"]);
    login(&user, &["muster.example"], &key).await.refuses(2, &["https://muster.example"]);
    login(&user, &[&server.url, "--server", &server.url], &key).await.refuses(2, &["--server"]);
    login(&user, &["http://127.0.0.1:1"], &key).await.refuses(5, &["cannot be reached"]);
    assert!(!file(&user).exists());
    login(&user, &[&server.url], &key).await.exits(0).lines();
    let before = fs::read_to_string(file(&user)).unwrap();
    login(&user, &[&server.url], &wrong).await.refuses(4, &[]);
    assert_eq!(fs::read_to_string(file(&user)).unwrap(), before);
}

#[tokio::test]
async fn a_key_that_may_do_something_else_is_a_good_key() {
    let (machine, server, _) = server().await;
    let made = machine.run(&["keys", "create", "--tenant", "acme", "--scope", "shout:write"]).await.exits(0);
    let user = Machine::new();
    login(&user, &[&server.url], made.stdout.trim()).await.exits(0).lines();
    assert!(file(&user).exists());
    user.run(&["batch", "list"]).await.refuses(4, &["batches:read"]);
}

#[tokio::test]
async fn profiles_are_kept_apart_and_chosen_by_name() {
    let (_one, one, one_key) = server_with(1).await;
    let (_two, two, two_key) = server_with(2).await;
    let user = Machine::new();
    login(&user, &[&one.url, "--profile", "one"], &one_key).await.exits(0).lines();
    login(&user, &[&two.url, "--profile", "two"], &two_key).await.exits(0).lines();
    assert!(!file(&user).exists());
    assert_eq!(batches(&user, &["--profile", "one"]).await, 1);
    assert_eq!(batches(&user, &["--profile", "two"]).await, 2);
    assert_eq!(batches(&user, &[]).await, 0);

    let user = user.with("MUSTER_PROFILE", "two");
    assert_eq!(batches(&user, &[]).await, 2);
    assert_eq!(batches(&user, &["--profile", "one"]).await, 1);
    // Who names a profile means all of it.
    let user = user.with("MUSTER_SERVER", &two.url).with("MUSTER_KEY", &two_key);
    assert_eq!(batches(&user, &["--profile", "one"]).await, 1);

    let user = user.with("MUSTER_PROFILE", "three").with("MUSTER_SERVER", "").with("MUSTER_KEY", "");
    user.run(&["batch", "list"]).await.refuses(3, &["no profile three", "muster login URL --profile three"]);
    user.run(&["logout", "--profile", "four"]).await.refuses(3, &["no profile four"]);
    user.run(&["batch", "list", "--profile", "../one"]).await.refuses(2, &["letters, digits"]);
    let user = user.with("MUSTER_PROFILE", "../one");
    user.run(&["batch", "list"]).await.refuses(2, &["MUSTER_PROFILE", "letters, digits"]);
    user.run(&["logout", "--profile", "one"]).await.exits(0).lines();
    assert!(!profile(&user, "one").exists());
    assert!(profile(&user, "two").exists());
}

#[tokio::test]
async fn a_key_that_is_kept_goes_to_no_other_server() {
    let (_machine, server, key) = server().await;
    let user = Machine::new();
    login(&user, &[&server.url], &key).await.exits(0).lines();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    user.run(&["--server", &url, "batch", "list"]).await.refuses(4, &["there is no key", "muster login"]);
    let asked = tokio::time::timeout(std::time::Duration::from_millis(50), other.accept()).await;
    assert!(asked.is_err(), "the key was on its way");
}

#[cfg(unix)]
#[tokio::test]
async fn a_settings_file_that_is_a_link_stays_one() {
    let (_machine, server, key) = server().await;
    let user = Machine::new();
    let target = user.home().join("dotfile");
    fs::write(&target, "log = 'error'\n").unwrap();
    fs::create_dir_all(file(&user).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&target, file(&user)).unwrap();
    login(&user, &[&server.url], &key).await.exits(0).lines();
    assert!(fs::symlink_metadata(file(&user)).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains(&key));
    assert_eq!(mode(&target), 0o600);
}

/// TLS for `name` before the server at `plain`, with a certificate of its own making (and no
/// authority, as that of a first deployment). Its address, and the certificate as PEM.
async fn tls(name: &str, plain: &str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = plain.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                // Whoever does not trust us goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(plain).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_trusted_where_it_is_given_and_only_there() {
    let (_one, server, key) = server_with(1).await;
    let (address, pem) = tls("localhost", &server.url).await;
    let url = format!("https://localhost:{}", address.port());
    let user = Machine::new();
    fs::write(user.home().join("server.pem"), pem).unwrap();
    fs::write(user.home().join("none.pem"), "not a certificate").unwrap();
    login(&user, &[&url], &key).await.refuses(1, &["certificate", "--ca-file"]);
    login(&user, &[&url, "--ca-file", "none.pem"], &key).await.refuses(2, &["none.pem", "PEM"]);
    login(&user, &[&url, "--ca-file", "missing.pem"], &key).await.refuses(2, &["missing.pem"]);
    assert!(!file(&user).exists());
    login(&user, &[&url, "--ca-file", "server.pem"], &key).await.exits(0).lines();
    let absolute = fs::canonicalize(user.home().join("server.pem")).unwrap();
    let kept =
        |path: &PathBuf| fs::read_to_string(path).unwrap().contains(&format!("ca_file = \"{}\"", absolute.display()));
    assert!(kept(&file(&user)));
    assert_eq!(batches(&user, &[]).await, 1);

    // Another server with another certificate.
    let (other, _) = tls("localhost", &server.url).await;
    let other = format!("https://localhost:{}", other.port());
    user.run(&["--server", &other, "batch", "list"]).await.refuses(4, &["there is no key"]);
    login(&user, &[&other, "--ca-file", "server.pem"], &key).await.refuses(1, &["certificate"]);
    // The right certificate for another name.
    let name = format!("https://127.0.0.1:{}", address.port());
    login(&user, &[&name, "--ca-file", "server.pem"], &key).await.refuses(1, &["certificate"]);

    // A new key keeps it, another server does not.
    login(&user, &[&url], &key).await.exits(0).lines();
    assert!(kept(&file(&user)));
    login(&user, &[&server.url], &key).await.exits(0).lines();
    assert!(!kept(&file(&user)));

    let user = user.with("MUSTER_SERVER", &url).with("MUSTER_KEY", &key);
    user.run(&["batch", "list"]).await.refuses(1, &["certificate"]);
    let user = user.with("MUSTER_CA_FILE", "server.pem");
    assert_eq!(batches(&user, &[]).await, 1);
}
