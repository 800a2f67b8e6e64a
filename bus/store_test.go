package bus

import (
	"errors"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func TestStoreHasOneUser(t *testing.T) {
	opts := Options{Listen: "none", StoreDir: t.TempDir()}
	first, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Start(opts)
	var refused *schemas.Error
	if !errors.As(err, &refused) || refused.Param != "store" || !strings.Contains(refused.Detail, "another engine") {
		if err == nil {
			second.Close()
		}
		t.Errorf("a second engine on the same store: %v", err)
	}
	first.Close()
	again, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
