//! A real S3 server over HTTP, signatures checked.

use inferbench_runner::store::Store;

use super::server::Server;

#[test]
fn an_s3_store_keeps_its_promises() {
    let Some(server) = Server::start() else {
        return;
    };
    super::behave(&server.open("results/deep"));
    super::behave(&server.open(""));

    let stores: Vec<Store> = (0..8).map(|_| server.open("race")).collect();
    for round in 0..8 {
        super::race(&stores, &format!("trials/{round}.json"));
    }

    // A wrong secret is refused, with what to do.
    let error = server
        .open_with("results", "not the secret")
        .probe()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the credentials are wrong") && error.contains("AWS_SECRET_ACCESS_KEY"),
        "{error}"
    );
    assert!(error.contains("s3://inferbench-test/results/"), "{error}");
    assert!(!error.contains("not the secret"), "{error}");

    // Of a list too, whose refusal the client words differently.
    let error = server
        .open_with("results", "not the secret")
        .list("trials")
        .unwrap_err()
        .to_string();
    assert!(error.contains("the credentials are wrong"), "{error}");

    // So is a bucket that is not there.
    let error = server
        .open_bucket("no-such-bucket", "results", server.secret())
        .probe()
        .unwrap_err()
        .to_string();
    assert!(error.contains("no such bucket"), "{error}");

    super::collect::a_sweep_is_collected(&server.open("default/thesis-0a1b2c3d"));
}
