//! Stands in for modules that are on their way; goes when they arrive.
#![allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod admin {
    use std::sync::Arc;
    pub trait AdminSource: Send + Sync {
        fn stats(&self) -> crate::bridge::Stats;
        fn ready(&self) -> bool;
    }
    pub fn bind(_a: &str) -> std::io::Result<()> {
        Ok(())
    }
    pub async fn serve(_a: (), _s: Arc<dyn AdminSource>) {}
}
pub mod proxy_protocol {
    pub async fn read(
        _s: &mut crate::stream::Stream,
        _b: &mut bytes::BytesMut,
        _p: &crate::listen::PeerAddr,
        _t: &[crate::config::Network],
    ) -> std::io::Result<Option<crate::listen::PeerAddr>> {
        Ok(None)
    }
}
