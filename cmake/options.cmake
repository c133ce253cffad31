# What every target is compiled with. -ffp-contract=off is part of the contract of the kernels: a fused multiply-add
# changes codes, and backends have to agree bit for bit where their headers say exact.
add_library(quantpipe_options INTERFACE)
target_compile_options(quantpipe_options INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes>
    -ffp-contract=off -fno-math-errno $<$<BOOL:${QUANTPIPE_WERROR}>:-Werror>)
target_compile_definitions(quantpipe_options INTERFACE _GNU_SOURCE QUANTPIPE_VERSION="${PROJECT_VERSION}")
target_include_directories(quantpipe_options INTERFACE ${PROJECT_SOURCE_DIR})
if(QUANTPIPE_SANITIZE)
    target_compile_options(quantpipe_options INTERFACE
        -fsanitize=${QUANTPIPE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(quantpipe_options INTERFACE -fsanitize=${QUANTPIPE_SANITIZE})
endif()

# quantpipe_library(NAME LINK TARGET...): a static library of every .c file in the calling folder.
function(quantpipe_library name)
    cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PRIVATE quantpipe_options PUBLIC ${arg_LINK})
endfunction()
