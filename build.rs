//! Tells the crate which PHP it is built for, and compiles the C that Zend's macros need.

use std::process::Command;

use anyhow::{Context, Result, bail};
use ext_php_rs_build::{ApiVersion, PHPInfo, emit_check_cfg, emit_php_cfg_flags, emit_rerun_if_env_changed, find_php};

fn main() -> Result<()> {
    emit_rerun_if_env_changed();
    println!("cargo:rerun-if-env-changed=PHP_CONFIG");
    println!("cargo:rerun-if-changed=src/shim.c");

    let php = find_php()?;
    let info = PHPInfo::get(&php)?;
    emit_check_cfg();
    let version: ApiVersion = info.zend_version()?.try_into()?;
    emit_php_cfg_flags(version);
    if info.thread_safety()? {
        println!("cargo:rustc-cfg=php_zts");
    }
    if info.debug()? {
        println!("cargo:rustc-cfg=php_debug");
    }

    let mut shim = cc::Build::new();
    for flag in php_includes()?.split_whitespace() {
        shim.flag(flag);
    }
    shim.file("src/shim.c").flag_if_supported("-Wno-unused-parameter").compile("lifeline_shim");

    // Threads and a fork handler of ours outlive PHP's dlclose at exit.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    Ok(())
}

/// `-I` flags of the PHP that is built against.
fn php_includes() -> Result<String> {
    let config = std::env::var_os("PHP_CONFIG").unwrap_or_else(|| "php-config".into());
    let output =
        Command::new(&config).arg("--includes").output().with_context(|| format!("cannot run {}", config.display()))?;
    if !output.status.success() {
        bail!("{} --includes failed", config.display());
    }
    Ok(String::from_utf8(output.stdout)?)
}
