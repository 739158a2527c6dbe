// Precompiled for every gtest program, as product_pch.h is for the product.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
