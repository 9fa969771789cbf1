<?php
// The socket to the gateway, which is nobody's business but the extension's.

declare(strict_types=1);

/** @return resource */
function gateway_socket()
{
    foreach (scandir('/proc/self/fd') as $number) {
        if (str_starts_with((string) @readlink("/proc/self/fd/$number"), 'socket:')) {
            return fopen("php://fd/$number", 'r+');
        }
    }
    throw new LogicException('there is no socket');
}
