//! Types of method arguments that behave as PHP's own: weak conversion, `strict_types` of the
//! caller, canonical errors. ext-php-rs' own scalars are always strict.

use ext_php_rs::convert::{FromZval, StubLiteral};
use ext_php_rs::flags::DataType;
use ext_php_rs::types::{ZendHashTable, ZendStr, Zval};

use crate::shim;

/// `int`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhpInt(pub(crate) i64);

/// `float`, also given as `int`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhpFloat(pub(crate) f64);

/// `bool`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhpBool(pub(crate) bool);

/// `string`, any bytes, not copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhpBytes<'a>(pub(crate) &'a [u8]);

/// `array`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhpArray<'a>(pub(crate) Option<&'a ZendHashTable>);

impl From<i64> for PhpInt {
    fn from(value: i64) -> Self {
        Self(value)
    }
}

impl From<f64> for PhpFloat {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<bool> for PhpBool {
    fn from(value: bool) -> Self {
        Self(value)
    }
}

impl StubLiteral for PhpInt {
    fn stub_literal(&self) -> String {
        self.0.to_string()
    }
}

impl StubLiteral for PhpFloat {
    fn stub_literal(&self) -> String {
        self.0.stub_literal()
    }
}

impl StubLiteral for PhpBool {
    fn stub_literal(&self) -> String {
        self.0.to_string()
    }
}

impl StubLiteral for PhpBytes<'_> {
    fn stub_literal(&self) -> String {
        self.text().as_ref().stub_literal()
    }
}

impl StubLiteral for PhpArray<'_> {
    fn stub_literal(&self) -> String {
        "[]".into()
    }
}

impl PhpBytes<'_> {
    /// The default `''`.
    pub(crate) const EMPTY: Self = Self(b"");

    /// The bytes as text; invalid UTF-8 shows as U+FFFD.
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.0)
    }
}

// The functions below hand Zend a mutable pointer made from a shared reference: the slot belongs to
// the running call's frame, which the generated code holds exclusively, and weak conversion writes
// the converted value back into it, as for PHP's own functions.

impl<'a> FromZval<'a> for PhpInt {
    const TYPE: DataType = DataType::Long;

    #[inline]
    fn from_zval(zval: &'a Zval) -> Option<Self> {
        if let Some(value) = zval.long() {
            return Some(Self(value));
        }
        let mut value = 0;
        // SAFETY: `zval` is an argument of the running method, see above.
        unsafe { shim::lifeline_argument_int(std::ptr::from_ref(zval).cast_mut(), &raw mut value) }
            .then_some(Self(value))
    }
}

impl<'a> FromZval<'a> for PhpFloat {
    const TYPE: DataType = DataType::Double;

    #[inline]
    fn from_zval(zval: &'a Zval) -> Option<Self> {
        if let Some(value) = zval.double() {
            return Some(Self(value));
        }
        let mut value = 0.0;
        // SAFETY: `zval` is an argument of the running method, see above.
        unsafe { shim::lifeline_argument_float(std::ptr::from_ref(zval).cast_mut(), &raw mut value) }
            .then_some(Self(value))
    }
}

impl<'a> FromZval<'a> for PhpBool {
    const TYPE: DataType = DataType::Bool;

    #[inline]
    fn from_zval(zval: &'a Zval) -> Option<Self> {
        if let Some(value) = zval.bool() {
            return Some(Self(value));
        }
        let mut value = false;
        // SAFETY: `zval` is an argument of the running method, see above.
        unsafe { shim::lifeline_argument_bool(std::ptr::from_ref(zval).cast_mut(), &raw mut value) }
            .then_some(Self(value))
    }
}

impl<'a> FromZval<'a> for PhpBytes<'a> {
    const TYPE: DataType = DataType::String;

    #[inline]
    fn from_zval(zval: &'a Zval) -> Option<Self> {
        if let Some(value) = zval.zend_str() {
            return Some(Self(value.as_bytes()));
        }
        let mut value: *mut ZendStr = std::ptr::null_mut();
        // SAFETY: `zval` is an argument of the running method, see above; the string that is made by
        // weak conversion is kept in the argument's slot and lives as long as the call.
        unsafe {
            shim::lifeline_argument_string(std::ptr::from_ref(zval).cast_mut(), &raw mut value)
                .then(|| Self((*value).as_bytes()))
        }
    }
}

impl<'a> FromZval<'a> for PhpArray<'a> {
    const TYPE: DataType = DataType::Array;

    #[inline]
    fn from_zval(zval: &'a Zval) -> Option<Self> {
        // SAFETY: `zval` is an argument of the running method, see above.
        unsafe { shim::lifeline_argument_array(std::ptr::from_ref(zval).cast_mut()) }.then(|| Self(zval.array()))
    }
}
