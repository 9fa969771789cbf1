<?php

// Where the stub says more, or says it otherwise, than the extension's reflection can.
// tests/phpt/stubs_match.phpt fails for a difference that is not here and for an entry that is stale.
return [
    // Zend does not set the flag on enums of extensions; they cannot be extended all the same.
    'WsState final' => ['stub' => 'true', 'extension' => 'false'],
];
