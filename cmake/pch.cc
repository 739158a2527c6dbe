// Carries the precompiled headers: they need a target with a source (cmake/skep.cmake).
