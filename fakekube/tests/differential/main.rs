//! The answers of an API server, asked of the double always, and of a real one where `INFERBENCH_E2E=1` and
//! `KUBECONFIG` say so: a difference is a bug in one of them.

#[path = "../common/mod.rs"]
mod common;

/// Each scenario is a test that runs against the double, and then against the real server.
macro_rules! scenarios {
    ($($(#[$about:meta])* async fn $name:ident($world:ident) $body:block)*) => {$(
        $(#[$about])*
        #[tokio::test]
        async fn $name() {
            async fn scenario($world: &World) $body
            let world = World::fake().await;
            scenario(&world).await;
            world.end().await;
            if let Some(world) = World::real().await {
                scenario(&world).await;
                world.end().await;
            }
        }
    )*};
}

mod definition;
mod deletion;
mod jobs;
mod reads;
mod writes;
