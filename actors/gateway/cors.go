package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	corsMethods      = "GET, POST, OPTIONS"
	corsHeadersMax   = 4096  // bytes of a preflight's wishes that are granted
	corsAgeSeconds   = 86400 // that a browser may remember a preflight
	corsExposed      = "X-Request-Id, Retry-After"
	corsHeadersPlain = "Authorization, Content-Type"
)

// withCORS lets pages of the configured origins use the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol).
// It allows no credentials: keys travel in a header that a page sets itself. /debug, where state can be changed, is
// left out. What pages of other origins POST is refused: a browser sends text without asking first, and an engine on
// the user's own machine would work for any site, though that could not read the answers.
func (g *Gateway) withCORS(next http.Handler) http.Handler {
	all, foreign := slices.Contains(g.cfg.CORSOrigins, "*"), http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		debug := r.URL.Path == "/debug" || strings.HasPrefix(r.URL.Path, "/debug/")
		allowed := !debug && origin != "" && (all || slices.Contains(g.cfg.CORSOrigins, origin))
		if !allowed && foreign.Check(r) != nil {
			g.writeErrorStatus(w, http.StatusForbidden, schemas.Errorf(schemas.KindUnauthorized, "origin", "pages of %q may not use this server", clip(origin)).
				WithHint("cors_origins lists those that may"))
			return
		}
		if debug || len(g.cfg.CORSOrigins) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		switch {
		case all:
			h.Set("Access-Control-Allow-Origin", "*")
		case allowed:
			h.Set("Access-Control-Allow-Origin", origin)
		}
		if !all {
			h.Add("Vary", "Origin")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" && allowed {
			wished := r.Header.Get("Access-Control-Request-Headers")
			if wished == "" || len(wished) > corsHeadersMax {
				wished = corsHeadersPlain
			}
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", wished)
			h.Set("Access-Control-Max-Age", strconv.Itoa(corsAgeSeconds))
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Set("Access-Control-Expose-Headers", corsExposed)
		next.ServeHTTP(w, r)
	})
}
