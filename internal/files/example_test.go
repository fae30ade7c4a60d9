package files

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
)

func ExampleHandler() {
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	os.WriteFile(filepath.Join(dir, "hello.txt"), []byte("hello, world"), 0o644)
	os.WriteFile(filepath.Join(dir, ".env"), []byte("SECRET=1"), 0o644)

	h, err := Handler(dir, Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{"/hello.txt", "/.env", "/"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, rec.Code)
	}
	// Output:
	// /hello.txt 200
	// /.env 404
	// / 404
}
