<?php
header('X-Request-Id: ' . ($_SERVER['HTTP_X_REQUEST_ID'] ?? ''));
file_get_contents('php://input');
if ($_SERVER['REQUEST_URI'] === '/slow') {
    sleep(2);
}
echo "done\n";
